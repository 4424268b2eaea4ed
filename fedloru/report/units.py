"""Number formats for pages and tables: megabytes, percentages, durations; missing values are shown as a dash."""

from __future__ import annotations

import math
from collections.abc import Callable

DASH = "–"


def _or_dash(formatter: Callable[[float], str]) -> Callable[[float | None], str]:
    def formatted(value: float | None) -> str:
        return DASH if value is None or math.isnan(value) else formatter(value)

    formatted.__doc__ = formatter.__doc__
    return formatted


@_or_dash
def megabytes(count: float) -> str:
    """Format a number of bytes in MB of 10⁶ bytes."""
    return f"{digits(count / 1e6)} MB"


@_or_dash
def memory(count: float) -> str:
    """Format a number of bytes in MB, or in GB of 10⁹ bytes from 1 GB."""
    return megabytes(count) if count < 1e9 else f"{digits(count / 1e9)} GB"


@_or_dash
def percent(share: float) -> str:
    """Format a fraction of 1 as a percentage."""
    return f"{100 * share:.1f} %"


@_or_dash
def decimal(value: float) -> str:
    """Format a number with three decimal places, or from a million with four significant digits."""
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.4g}"


@_or_dash
def times(share: float) -> str:
    """Format a ratio as a factor: ``N× fewer`` below 1, ``N× as many`` otherwise."""
    return f"{1 / share:,.1f}× fewer" if 0 < share < 1 else f"{share:,.1f}× as many"


@_or_dash
def duration(seconds: float) -> str:
    """Format a duration in seconds in its two largest units, such as ``3 min 05 s``."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plain(value: object) -> str:
    """Format a number with thousands separators (floats to four significant digits), or another value with ``str``."""
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def digits(value: float) -> str:
    """Format a number to three significant digits, keeping all digits before the decimal point."""
    if abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def part(used: int, all: int) -> str:
    """Return a number, and of how many it is if it is smaller, such as "1,000 of 7,600"."""
    return f"{all:,}" if used == all else f"{used:,} of {all:,}"
