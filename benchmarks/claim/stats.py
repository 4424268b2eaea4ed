"""Means over seeds with 95% intervals, alone and paired."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import t


class Interval(NamedTuple):
    """A mean and half the width of its 95% interval; None if there is a single value."""

    mean: float
    half: float | None

    def shown(self, digits: int = 1, sign: str = "") -> str:
        """Return mean ± half width."""
        half = "" if self.half is None else f" ± {self.half:.{digits}f}"
        return f"{self.mean:{sign}.{digits}f}{half}".replace("-", "−")


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of ``values``, and the interval by Student's t distribution."""
    count = len(values)
    if count < 2:
        return Interval(values[0], None)
    half = float(t.ppf(0.975, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return Interval(statistics.mean(values), half)


def differences(values: Mapping[int, float], reference: Mapping[int, float]) -> Interval | None:
    """Return the interval of value − reference over the seeds that both have; None if there are none."""
    shared = sorted(values.keys() & reference.keys())
    return interval([values[seed] - reference[seed] for seed in shared]) if shared else None


def ratios(values: Mapping[int, float], reference: Mapping[int, float]) -> Interval | None:
    """Return the interval of value / reference over the seeds that both have; None if there are none."""
    shared = sorted(seed for seed in values.keys() & reference.keys() if reference[seed])
    return interval([values[seed] / reference[seed] for seed in shared]) if shared else None
