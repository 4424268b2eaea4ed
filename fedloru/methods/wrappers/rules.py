"""Robust rules: functions that combine the values of clients coordinate by coordinate.

For the values x_1 ≤ … ≤ x_P of one coordinate, of the P clients of a cohort::

    median         the middle one, or the mean of the two middle ones
    trimmed mean   the mean of x_{k+1} … x_{P−k},  k = ⌈trim·P⌉

Both are of Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates", ICML 2018, arXiv 1803.01498. k is rounded up, so that trimming is never without effect, but at least one of an
odd and two of an even number of values remain. A value that is not a number is larger than all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fedloru.settings import PREFIX, Table, calling
from fedloru.tree import Params

Rule = Callable[[Tensor], Tensor]
"""A function from the values of P clients, (P, n), to those of their aggregate, (n,)."""

MEAN = "mean"
BLOCK = 2**20
"""The maximum number of coordinates that are combined at once."""


def median(values: Tensor) -> Tensor:
    """Return the median of each column of ``values``, (P, n), as (n,)."""
    return _middle(values, len(values))


def trimmed_mean(values: Tensor, *, trim: float = 0.1) -> Tensor:
    """Return the mean of each column of ``values``, (P, n), without the share ``trim`` on each side, as (n,)."""
    return _middle(values, math.ceil(trim * len(values) - 1e-9))  # 0.07 · 100 > 7 in floating-point numbers


def _middle(values: Tensor, trimmed: int) -> Tensor:
    trimmed = min(trimmed, (len(values) - 1) // 2)
    kept: Tensor = values.sort(0).values[trimmed : len(values) - trimmed]
    return kept.mean(0)


RULES: Table[Rule | None] = Table("rule", {MEAN: None, "median": median, "trimmed_mean": trimmed_mean})
"""The rules by name, without that of the method itself; a ``python:`` name refers to a ``Rule``."""


def combined(name: str, rule: Rule, trees: Sequence[Params]) -> Params:
    """Return ``trees`` of the same shapes combined by the rule called ``name``, in float32 or wider.

    Raises:
        ConfigError: the rule is not part of the package, and fails or does not return one value per coordinate.
    """
    return {key: _tensor(name, rule, [tree[key] for tree in trees]) for key in trees[0]}


def _tensor(name: str, rule: Rule, tensors: Sequence[Tensor]) -> Tensor:
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    parts = zip(*(t.flatten().split(BLOCK) for t in tensors), strict=True)
    found = [_block(name, rule, torch.stack(part).to(wide)) for part in parts]
    return torch.cat(found).view(tensors[0].shape)


def _block(name: str, rule: Rule, values: Tensor) -> Tensor:
    expected = values.shape[1:]
    with calling(name, RULES.error):
        found: Any = rule(values)
    if name.startswith(PREFIX) and not (isinstance(found, Tensor) and found.shape == expected):
        got = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise RULES.error(f"{name} returned {got} for values {tuple(values.shape)}, expected {tuple(expected)}")
    result: Tensor = found.to(values.dtype)
    return result
