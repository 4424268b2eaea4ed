"""Student's t: intervals of means over seeds, and paired differences over the seeds that two groups share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

LEVEL = 0.95
"""The confidence of all intervals."""


ROUNDING = 1e-12
"""Differences whose spread is a smaller part of their mean are equal: bytes in MB are not exact."""


class Difference(NamedTuple):
    """The mean of the differences at ``seeds``, its interval, and the p-value of a paired t-test.

    With fewer than two seeds, there is no interval; if all differences are equal, there is no test.
    """

    seeds: tuple[int, ...]
    mean: float | None
    interval: tuple[float, float] | None
    p: float | None


def half_width(values: Sequence[float]) -> float | None:
    """Return half of the length of the interval of the mean of ``values``; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2))
    return quantile * stdev(values) / math.sqrt(len(values))


def difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Return how ``values`` differ from those of ``baseline``, both by seed."""
    seeds = tuple(sorted(values.keys() & baseline.keys()))
    each = [values[seed] - baseline[seed] for seed in seeds]
    if not each:
        return Difference(seeds, None, None, None)
    mean, half = fmean(each), half_width(each)
    return Difference(seeds, mean, None if half is None else (mean - half, mean + half), _p_value(each))


def _p_value(differences: Sequence[float]) -> float | None:
    if len(differences) < 2:
        return None
    mean, spread = fmean(differences), stdev(differences)
    if spread <= ROUNDING * abs(mean):
        return None
    from scipy.special import stdtr

    t = mean / (spread / math.sqrt(len(differences)))
    return 2 * float(stdtr(len(differences) - 1, -abs(t)))
