"""The bytes of a run by closed formula, without training: what the measured payload is held against (law 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from fedloru import tree
from fedloru.method import Method, State
from fedloru.net import Net
from fedloru.wire.codec import width
from fedloru.wire.ledger import Ledger
from fedloru.wire.traffic import Direction, Traffic, kinds


def cost(
    net: Net, method: Method, cohorts: Iterable[Sequence[int]], *, codec: str = "fp32", first_download: bool = True
) -> list[Traffic]:
    """Return the payload bytes of every round; the envelope is 0, and what a run measures of it comes on top.

    ``cohorts`` names the clients of each round. A kind of values whose tensors differ in type is counted at the
    widest of them, and one that the first state lacks like the trained tensors.
    """
    state = method.init(net, 0)
    widths, increment_width = _widths(net, state, codec)
    ledger = Ledger(net.sites, state, first_download=first_download)
    rounds: list[Traffic] = []
    for round, cohort in enumerate(cohorts, 1):
        values = method.values(net, round, len(cohort))
        traffic = _catching_up(ledger, cohort, state)
        directions: tuple[tuple[Direction, dict[str, int]], ...] = (("down", values.down), ("up", values.up))
        for direction, counts in directions:
            for kind, count in counts.items():
                traffic = traffic.add(direction, kind, count * widths[kind] * len(cohort))
        rounds.append(traffic)
        state = _merged(state, values.increment * increment_width)
        ledger.record(state)
    return rounds


def _widths(net: Net, state: State, codec: str) -> tuple[dict[str, int], int]:
    parts = kinds(net, state.shared, state.aux)
    types = {kind: {t.dtype for t in part.values()} for kind, part in parts.items()}
    trained = types["factors"] | types["dense"] or {torch.float32}
    widths = {kind: max(width(codec, dtype) for dtype in found or trained) for kind, found in types.items()}
    return widths, max(dtype.itemsize for dtype in types["factors"] or trained)


def _catching_up(ledger: Ledger, cohort: Sequence[int], state: State) -> Traffic:
    traffic = Traffic()
    for client in cohort:
        sync = ledger.owed(client, state)
        nbytes = tree.nbytes(sync.base) + sum(tree.nbytes(increment) for _, increment in sync.increments)
        traffic = traffic.add("down", "first_download" if sync.first else "increments", nbytes)
        ledger.delivered(client, state.version)
    return traffic


def _merged(state: State, nbytes: int) -> State:
    """Return the state after the round, with an increment of so many bytes that exists only as a size."""
    if not nbytes:
        return state
    size_only = {"increment": torch.empty(nbytes, dtype=torch.uint8, device="meta")}
    return state._replace(version=state.version + 1, increment=size_only)
