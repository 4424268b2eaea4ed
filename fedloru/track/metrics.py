"""Rows, summaries and settings as the flat tables of numbers and texts that trackers take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from fedloru.track.tracker import Scalar

NESTED = ("bytes", "diagnostics", "sites", "personal")
"""The tables of a row whose numbers are tracked; those by client or profile are not, since there may be thousands."""
UNTRACKED = ("output", "track", "made_by")
"""The parts of a configuration that say nothing about the results."""


def metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of ``rounds.jsonl``; those of tables have names such as "bytes/up/factors"."""
    kept = {key: value for key, value in row.items() if key in NESTED or not isinstance(value, Mapping)}
    return {key: float(value) for key, value in flat(kept, "/") if key != "round" and _is_number(value)}


def summary_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers at the top of ``summary.json``."""
    return {key: float(value) for key, value in summary.items() if _is_number(value)}


def settings(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the settings of a configuration by their keys; lists are texts."""
    kept = {key: value for key, value in config.items() if key not in UNTRACKED}
    return {key: value if isinstance(value, Scalar) else str(value) for key, value in flat(kept, ".")}


def flat(table: Mapping[str, Any], separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested tables, with the keys on the way to each joined by ``separator``."""
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, separator, f"{path}{separator}")
        else:
            yield path, value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
