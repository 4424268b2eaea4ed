"""The byte formula: the payload of a run, computed without training. The measured payload must equal it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch

from fedloru import lowrank, tree
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
    """Return the payload bytes of each round, summed over profiles; see ``cost_by_profile``."""
    rounds = cost_by_profile(net, method, cohorts, profiles=profiles, codec=codec, first_download=first_download)
    return [sum(traffic.values(), Traffic()) for traffic in rounds]


def cost_by_profile(
    net: Net,
    method: Method,
    cohorts: Iterable[Sequence[int]],
    *,
    profiles: Sequence[Profile] = (),
    codec: str = "fp32",
    first_download: bool = True,
) -> list[dict[Profile, Traffic]]:
    """Return the payload bytes of each round by profile. The envelope counts as 0; a run measures it in addition.

    ``cohorts`` lists the clients of each round, and ``profiles`` the profile of each client; if it is (), all clients
    have the default profile. If the tensors of one kind differ in dtype, all of them count at the widest. A kind that
    is missing in the initial state counts at the width of the trained tensors.
    """
    state = method.init(net, 0)
    widths, increment_width = _widths(net, state, codec)
    ledger = Ledger(net.sites, state, first_download=first_download)
    rounds: list[dict[Profile, Traffic]] = []
    for round, cohort in enumerate(cohorts, 1):
        present = [profiles[client] if profiles else () for client in cohort]
        traffic = _sync_traffic(ledger, cohort, present, state)
        increment = 0
        for profile, clients in Counter(present).items():
            values = method.values(net, round, present, profile)
            traffic[profile] += _exchange_traffic(values, widths, clients)
            increment = values.increment
        rounds.append(traffic)
        state = _after_round(net, state, increment * increment_width)
        ledger.record(state)
    return rounds


def _exchange_traffic(values: Values, widths: dict[str, int], clients: int) -> Traffic:
    """Return the bytes that ``clients`` clients of one profile receive and send in a round."""
    down = {kind: count * widths[kind] * clients for kind, count in values.down.items()}
    return Traffic(down, {kind: count * widths[kind] * clients for kind, count in values.up.items()})


def _widths(net: Net, state: State, codec: str) -> tuple[dict[str, int], int]:
    """Return the bytes of one value of each kind in a message, and of one value of an increment."""
    parts = kinds(net, state.shared, state.aux)
    dtypes = {kind: {t.dtype for t in part.values()} for kind, part in parts.items()}
    trained = dtypes["factors"] | dtypes["dense"] or {torch.float32}
    widths = {kind: max(width(codec, dtype) for dtype in present or trained) for kind, present in dtypes.items()}
    return widths, max(dtype.itemsize for dtype in dtypes["factors"] or trained)


def _sync_traffic(
    ledger: Ledger, cohort: Sequence[int], profiles: Sequence[Profile], state: State
) -> dict[Profile, Traffic]:
    """Return the bytes that bring a cohort to the version of ``state``, by profile, and record them in ``ledger``."""
    traffic: dict[Profile, Traffic] = defaultdict(Traffic)
    for client, profile in zip(cohort, profiles, strict=True):
        sync = ledger.owed(client, state)
        nbytes = tree.nbytes(sync.base) + sum(tree.nbytes(increment) for _, increment in sync.increments)
        traffic[profile] += Traffic(down={"first_download" if sync.first else "increments": nbytes})
        ledger.delivered(client, state.version)
    return traffic


def _after_round(net: Net, state: State, nbytes: int) -> State:
    """Return the state after a round, with a placeholder on the meta device for an increment of ``nbytes`` bytes."""
    if not nbytes:
        return state
    placeholder = {"increment": torch.empty(nbytes, dtype=torch.uint8, device="meta")}
    version = state.version + 1
    return state._replace(version=version, base=lowrank.turned(net.sites, state.base, version), increment=placeholder)
