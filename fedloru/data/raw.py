"""The examples that a data source returns, before labels are numbered and pixels are normalised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor

Columns = dict[str, tuple[str, ...]]


class Rows(NamedTuple):
    """Examples: ``x`` (N, C, H, W) or (N, d) of any numeric dtype, ``labels`` (N,) integers or strings."""

    x: Tensor
    labels: NDArray[Any]
    columns: Columns = {}


class Raw(NamedTuple):
    """The examples of a source; by default, part of ``train`` is held out as a test set, and labels name classes."""

    train: Rows
    test: Rows | None = None
    classes: tuple[str, ...] | None = None


Reader = Callable[..., Raw]
"""A data source: a function from its settings to the examples."""
