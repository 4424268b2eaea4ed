"""The bytes of a run by closed formula, without training: what the measured payload is held against (law 6)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch

from fedloru import tree
from fedloru.method import Method, Profile, State, Values
from fedloru.net import Net
from fedloru.wire.codec import width
from fedloru.wire.ledger import Ledger
from fedloru.wire.traffic import Traffic, kinds


def cost(
    net: Net,
    method: Method,
    cohorts: Iterable[Sequence[int]],
    *,
    profiles: Sequence[Profile] = (),
    codec: str = "fp32",
    first_download: bool = True,
) -> list[Traffic]:
    """Return the payload bytes of every round, of all profiles together: the sums of ``cost_by_profile``."""
    each = cost_by_profile(net, method, cohorts, profiles=profiles, codec=codec, first_download=first_download)
    return [sum(accounts.values(), Traffic()) for accounts in each]


def cost_by_profile(
    net: Net,
    method: Method,
    cohorts: Iterable[Sequence[int]],
    *,
    profiles: Sequence[Profile] = (),
    codec: str = "fp32",
    first_download: bool = True,
) -> list[dict[Profile, Traffic]]:
    """Return the payload bytes of every round by profile; the envelope is 0, what a run measures of it comes on top.

    ``cohorts`` names the clients of each round, and ``profiles`` what makes each client differ; (): nothing does. A
    kind of values whose tensors differ in type is counted at the widest of them, and one that the first state lacks
    like the trained tensors.
    """
    state = method.init(net, 0)
    widths, increment_width = _widths(net, state, codec)
    ledger = Ledger(net.sites, state, first_download=first_download)
    rounds: list[dict[Profile, Traffic]] = []
    for round, cohort in enumerate(cohorts, 1):
        present = [profiles[client] if profiles else () for client in cohort]
        accounts = _catching_up(ledger, cohort, present, state)
        increment = 0
        for profile, number in Counter(present).items():
            values = method.values(net, round, present, profile)
            accounts[profile] += _exchange(values, widths, number)
            increment = values.increment
        rounds.append(accounts)
        state = _merged(state, increment * increment_width)
        ledger.record(state)
    return rounds


def _exchange(values: Values, widths: dict[str, int], clients: int) -> Traffic:
    """Return the bytes that so many clients of one profile exchange in a round."""
    down = {kind: count * widths[kind] * clients for kind, count in values.down.items()}
    return Traffic(down, {kind: count * widths[kind] * clients for kind, count in values.up.items()})


def _widths(net: Net, state: State, codec: str) -> tuple[dict[str, int], int]:
    parts = kinds(net, state.shared, state.aux)
    types = {kind: {t.dtype for t in part.values()} for kind, part in parts.items()}
    trained = types["factors"] | types["dense"] or {torch.float32}
    widths = {kind: max(width(codec, dtype) for dtype in found or trained) for kind, found in types.items()}
    return widths, max(dtype.itemsize for dtype in types["factors"] or trained)


def _catching_up(
    ledger: Ledger, cohort: Sequence[int], profiles: Sequence[Profile], state: State
) -> dict[Profile, Traffic]:
    accounts: dict[Profile, Traffic] = defaultdict(Traffic)
    for client, profile in zip(cohort, profiles, strict=True):
        sync = ledger.owed(client, state)
        nbytes = tree.nbytes(sync.base) + sum(tree.nbytes(increment) for _, increment in sync.increments)
        accounts[profile] += Traffic(down={"first_download" if sync.first else "increments": nbytes})
        ledger.delivered(client, state.version)
    return accounts


def _merged(state: State, nbytes: int) -> State:
    """Return the state after the round, with an increment of so many bytes that exists only as a size."""
    if not nbytes:
        return state
    size_only = {"increment": torch.empty(nbytes, dtype=torch.uint8, device="meta")}
    return state._replace(version=state.version + 1, increment=size_only)
