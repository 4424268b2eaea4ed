"""Numbers as people read them: megabytes, per cent, hours; what was not measured is a dash."""

from __future__ import annotations

import math
from collections.abc import Callable

DASH = "–"


def _or_dash(say: Callable[[float], str]) -> Callable[[float | None], str]:
    def said(value: float | None) -> str:
        return DASH if value is None or math.isnan(value) else say(value)

    said.__doc__ = say.__doc__
    return said


@_or_dash
def megabytes(count: float) -> str:
    """Return bytes as MB of 10⁶ bytes."""
    return f"{digits(count / 1e6)} MB"


@_or_dash
def memory(count: float) -> str:
    """Return bytes as MB, or as GB of 10⁹ bytes where that is shorter."""
    return megabytes(count) if count < 1e9 else f"{digits(count / 1e9)} GB"


@_or_dash
def percent(share: float) -> str:
    """Return a share of 1 as per cent."""
    return f"{100 * share:.1f} %"


@_or_dash
def decimal(value: float) -> str:
    """Return a number with three digits after the point."""
    return f"{value:.3f}"


@_or_dash
def times(share: float) -> str:
    """Return how many times fewer, or as many, a share of 1 is."""
    return f"{1 / share:,.1f}× fewer" if 0 < share < 1 else f"{share:,.1f}× as many"


@_or_dash
def duration(seconds: float) -> str:
    """Return seconds in the two largest units that fit."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plain(value: object) -> str:
    """Return a number with its thousands apart, or anything else as it is."""
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def digits(value: float) -> str:
    """Return a number with three digits, or all those before its point."""
    if abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
