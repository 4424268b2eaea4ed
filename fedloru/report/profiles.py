"""Clients that differ, as numbers: a row for what each profile sent and received, and one for all together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fedloru.report import units

HEAD = ("profile", "clients", "took part", "kB down", "kB up", "MB down", "MB up", "MB both")
CAPTION = (
    "A profile is what makes clients differ. Took part: rounds, summed over its clients. kB (10³ bytes) are the mean "
    "of one client in one such round, catching up and first downloads included; MB are 10⁶ bytes."
)


class _Told(NamedTuple):
    """What is told of one profile; ``clients`` is not known before a run is finished."""

    clients: int | None
    client_rounds: int
    down: int
    up: int


def table(profiles: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the head and the rows for the ``profiles`` of a summary; the last row is their sum."""
    told = {
        name: _Told(one.get("clients"), one["client_rounds"], sum(one["down"].values()), sum(one["up"].values()))
        for name, one in profiles.items()
    }
    told["all"] = _together(list(told.values()))
    return HEAD, [(name, *_cells(one)) for name, one in told.items()]


def _together(each: list[_Told]) -> _Told:
    known = [one.clients for one in each if one.clients is not None]
    clients = sum(known) if len(known) == len(each) else None
    return _Told(clients, *(sum(counts) for counts in zip(*(one[1:] for one in each), strict=True)))


def _cells(one: _Told) -> tuple[str, ...]:
    mean = [
        f"{count / one.client_rounds / 1e3:,.1f}" if one.client_rounds else units.DASH for count in (one.down, one.up)
    ]
    total = [f"{count / 1e6:,.3f}" for count in (one.down, one.up, one.down + one.up)]
    return (units.DASH if one.clients is None else f"{one.clients:,}", f"{one.client_rounds:,}", *mean, *total)
