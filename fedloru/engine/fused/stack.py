"""Stacked trees: the trees of several clients as one, whose tensors have a leading client axis, (C, *shape).

The first m rows of a stacked tensor are contiguous, so clients that have finished are removed by slicing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedloru import tree
from fedloru.tree import Params


def stack(starts: Sequence[Params]) -> Params:
    """Return copies of C trees as one tree of (C, *shape) tensors."""
    return {key: torch.stack([start[key].detach() for start in starts]) for key in starts[0]}


def first(stacked: Params, m: int) -> Params:
    """Return views of the rows of the first m clients."""
    return tree.map(lambda t: t[:m], stacked)


def client(stacked: Params, c: int) -> Params:
    """Return views of the row of client c."""
    return tree.map(lambda t: t[c], stacked)


def unstack(stacked: Params) -> list[Params]:
    """Return views of the rows of all clients."""
    return [dict(zip(stacked, rows, strict=True)) for rows in zip(*(t.unbind() for t in stacked.values()), strict=True)]
