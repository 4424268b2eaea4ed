"""The examples that a data source returns, before labels are numbered and pixels are standardized."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor

from fedloru.errors import counted, listed

if TYPE_CHECKING:
    from fedloru.data.features import Encoding

Columns = Mapping[str, Any]
"""Sequences or arrays of one key per example, by the name of the column."""


class Rows(NamedTuple):
    """Examples: ``x`` (N, C, H, W) or (N, d) of any numeric dtype, and keys.

    ``labels`` are integers or strings (N,), or the targets of a regression, numbers (N,) or (N, d).
    """

    x: Tensor
    labels: NDArray[Any]
    columns: Columns = {}


class Raw(NamedTuple):
    """The examples of a source; by default, part of ``train`` is held out as a test set, and labels name classes.

    With ``classes``, labels are names among them, or else positions in them, which is then remarked. Unless ``scale``
    is False, ``x`` is standardized. ``encoding`` says which columns of a table ``x`` was made of, and how it is
    standardized.

    ``remarks`` are sentences about how the data was read, such as which files were not; see ``Dataset.remarks``.
    """

    train: Rows
    test: Rows | None = None
    classes: tuple[str, ...] | None = None
    remarks: tuple[str, ...] = ()
    scale: bool = True
    encoding: Encoding | None = None


Reader = Callable[..., Raw]
"""A data source: a function from its settings to the examples."""


def unread(names: Sequence[str], reason: str, thing: str = "file") -> tuple[str, ...]:
    """Return the remark that ``names`` were not read for ``reason``: how many, and the first ten; () without names."""
    if not names:
        return ()
    return (f"{counted(len(names), thing)} not read ({reason}): {listed(names)}",)
