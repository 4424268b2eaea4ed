"""The table of bytes by client profile: one row per profile, and one with the sums over all profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fedloru.report import units

HEAD = ("profile", "clients", "client rounds", "kB down", "kB up", "MB down", "MB up", "MB total")
CAPTION = (
    "A profile is what distinguishes a client, such as the highest rank it can train. Client rounds: number of rounds "
    "taken part in, summed over the clients. kB (10³ bytes): mean per client round, including catch-up and first "
    "downloads. MB (10⁶ bytes): totals."
)


class _Usage(NamedTuple):
    """Clients, client rounds and bytes of one profile; ``clients`` is None until the run has finished."""

    clients: int | None
    client_rounds: int
    down: int
    up: int


def table(profiles: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and the rows for the ``profiles`` of a summary; the last row has the sums."""
    usages = {
        name: _Usage(line.get("clients"), line["client_rounds"], sum(line["down"].values()), sum(line["up"].values()))
        for name, line in profiles.items()
    }
    usages["all"] = _sum(list(usages.values()))
    return HEAD, [(name, *_cells(usage)) for name, usage in usages.items()]


def _sum(usages: list[_Usage]) -> _Usage:
    known = [usage.clients for usage in usages if usage.clients is not None]
    clients = sum(known) if len(known) == len(usages) else None
    return _Usage(clients, *(sum(counts) for counts in zip(*(usage[1:] for usage in usages), strict=True)))


def _cells(usage: _Usage) -> tuple[str, ...]:
    mean = [
        f"{count / usage.client_rounds / 1e3:,.1f}" if usage.client_rounds else units.DASH
        for count in (usage.down, usage.up)
    ]
    total = [f"{count / 1e6:,.3f}" for count in (usage.down, usage.up, usage.down + usage.up)]
    return (units.DASH if usage.clients is None else f"{usage.clients:,}", f"{usage.client_rounds:,}", *mean, *total)
