"""Sites: the weights that are adapted by low-rank factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fedloru.errors import ModelError


class Site(NamedTuple):
    """One adapted weight W (o, i, …): the layer computes with W + s·BA.

    Key names and axes are defined here and nowhere else. W is treated as an o × i matrix; for a convolution, i
    includes the kernel (i·k·k). An embedding of V tokens in d dimensions is a V × d matrix.
    """

    weight: str
    a: str
    b: str
    shape: tuple[int, ...]
    rank: int
    scale: float

    @property
    def o(self) -> int:
        """Rows of the matrix W."""
        return matrix(self.shape)[0]

    @property
    def i(self) -> int:
        """Columns of the matrix W."""
        return matrix(self.shape)[1]

    @property
    def keys(self) -> tuple[str, str]:
        """The state-dict keys of the factors (A, B)."""
        return self.a, self.b

    def a_shape(self, rank: int | None = None) -> tuple[int, ...]:
        """Return the shape of A: (r, i), or (r, i, k, k) for a convolution."""
        return (self.rank if rank is None else rank, *self.shape[1:])

    def b_shape(self, rank: int | None = None) -> tuple[int, ...]:
        """Return the shape of B: (o, r), or (o, r, 1, 1) for a convolution."""
        return (self.o, self.rank if rank is None else rank, *(1 for _ in self.shape[2:]))

    def values(self, rank: int | None = None) -> int:
        """Return the number of values in both factors: r(o + i)."""
        return (self.rank if rank is None else rank) * (self.o + self.i)


def matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Return the size (o, i) of the matrix that a weight of this shape is treated as."""
    return shape[0], math.prod(shape[1:])


def check_rank(shape: Sequence[int], rank: int) -> str | None:
    """Return why ``rank`` is not valid for a weight of this shape, or None if it is."""
    o, i = matrix(shape)
    if 1 <= rank <= min(o, i):
        return None
    return f"got rank {rank}, but a matrix of {o} × {i} has rank 1 to {min(o, i)}"


def refuse_ranks(problems: list[str]) -> None:
    """Raise one ``ModelError`` that lists all sites whose rank is out of range."""
    if problems:
        raise ModelError("the rank is out of range: " + "; ".join(problems) + ". Lower the rank, or exclude the layer")
