"""What is asked of a source, and what it gives back before labels are numbered and pixels normalised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor

from fedloru.errors import DataError

Columns = dict[str, tuple[str, ...]]


class Query(NamedTuple):
    """What is asked of a source: ``image``, ``label`` and ``columns`` name columns, where it has named columns."""

    source: str
    path: str | None
    image: str = "image"
    label: str = "label"
    columns: tuple[str, ...] = ()
    seed: int = 0

    @property
    def place(self) -> Path:
        """The path, as one that need not exist."""
        return Path(self.name)

    @property
    def name(self) -> str:
        """The path, as it was given."""
        if self.path is None:
            raise DataError(f"the source {self.source!r} needs a path; give data.path")
        return self.path


class Rows(NamedTuple):
    """Examples as read: ``x`` (N, C, H, W) or (N, d) of any number type, ``labels`` (N,) integers or strings."""

    x: Tensor
    labels: NDArray[Any]
    columns: Columns = {}


class Raw(NamedTuple):
    """What a source holds; without ``test`` a part of ``train`` is held out, without ``classes`` labels name them."""

    train: Rows
    test: Rows | None = None
    classes: tuple[str, ...] | None = None


Reader = Callable[[Query], Raw]
