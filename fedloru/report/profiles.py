"""The bytes by client profile: one row per profile, and one with the sums over all profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fedloru.report import units
from fedloru.report.columns import Column, Listing

CAPTION = (
    "A profile is what distinguishes a client, such as the highest rank it can train. Client rounds: number of rounds "
    "taken part in, summed over the clients. kB (10³ bytes): mean per client round, including catch-up and first "
    "downloads. MB (10⁶ bytes): totals."
)


def _kilobytes(count: float) -> str:
    return f"{count / 1e3:,.1f}"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.3f}"


COLUMNS = (
    Column("profile", "profile"),
    Column("clients", "clients", units.plain, right=True),
    Column("client_rounds", "client rounds", units.plain, right=True),
    Column("mean_down_bytes", "kB down", _kilobytes, right=True),
    Column("mean_up_bytes", "kB up", _kilobytes, right=True),
    Column("down_bytes", "MB down", _megabytes, right=True),
    Column("up_bytes", "MB up", _megabytes, right=True),
    Column("bytes", "MB total", _megabytes, right=True),
)


class _Usage(NamedTuple):
    """Clients, client rounds and bytes of one profile; ``clients`` is None until the run has finished."""

    clients: int | None
    client_rounds: int
    down: int
    up: int


def listing(profiles: Mapping[str, Mapping[str, Any]]) -> Listing:
    """Return the ``profiles`` of a summary, with the sums in the last row; without rows if there are none."""
    if not profiles:
        return Listing(COLUMNS, [])
    usages = {
        name: _Usage(line.get("clients"), line["client_rounds"], sum(line["down"].values()), sum(line["up"].values()))
        for name, line in profiles.items()
    }
    usages["all"] = _sum(list(usages.values()))
    return Listing(COLUMNS, [{"profile": name, **_row(usage)} for name, usage in usages.items()], totals=1)


def _sum(usages: list[_Usage]) -> _Usage:
    known = [usage.clients for usage in usages if usage.clients is not None]
    clients = sum(known) if len(known) == len(usages) else None
    return _Usage(clients, *(sum(counts) for counts in zip(*(usage[1:] for usage in usages), strict=True)))


def _row(usage: _Usage) -> dict[str, float | None]:
    mean = [count / usage.client_rounds if usage.client_rounds else None for count in (usage.down, usage.up)]
    return {
        "clients": usage.clients,
        "client_rounds": usage.client_rounds,
        "mean_down_bytes": mean[0],
        "mean_up_bytes": mean[1],
        "down_bytes": usage.down,
        "up_bytes": usage.up,
        "bytes": usage.down + usage.up,
    }
