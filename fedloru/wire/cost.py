"""The byte formula: the payload of a run, computed without training. The measured payload must equal it.

With a codec of floating-point values, a message has ``Method.values`` times the width of a value. Integer codes also
have scales, whose number follows from the shapes of the tensors. So their bytes are those of the messages of clients
that change nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch

from fedloru import lowrank, tree
from fedloru.method import NOTHING, Down, Method, Profile, State, Up, Values
from fedloru.net import Net
from fedloru.wire.codec import find, payload, width
from fedloru.wire.grid import increment_widths, outline
from fedloru.wire.ledger import Ledger
from fedloru.wire.spec import at_version, untrained
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
    have the default profile. If the tensors of one kind differ in dtype, all of them count at the widest, except with
    integer codes. A kind that is missing in the initial state counts at the width of the trained tensors.
    """
    state = method.init(net, 0)
    sizes: _Sizes = _ByShape(net, method, state, codec) if find(codec).bits else _ByWidth(net, state, codec)
    ledger = Ledger(net.sites, state, first_download=first_download)
    rounds: list[dict[Profile, Traffic]] = []
    for round, cohort in enumerate(cohorts, 1):
        present = [profiles[client] if profiles else () for client in cohort]
        traffic = _sync_traffic(ledger, cohort, present, state)
        before, merged = state._replace(round=round - 1), 0
        for profile, clients in Counter(present).items():
            values = method.values(net, round, present, profile)
            traffic[profile] += _times(clients, sizes.exchange(before, values, profile))
            merged = values.increment
        rounds.append(traffic)
        state = _after_round(net, state, sizes.increment(before, merged, present) if merged else 0)
        ledger.record(state)
    return rounds


class _Bytes(NamedTuple):
    """The bytes that one client receives and sends in a round, by kind."""

    down: dict[str, int]
    up: dict[str, int]


class _Sizes(Protocol):
    """The bytes of the messages of a round that starts at a state without trained tensors, and of its increment."""

    def exchange(self, before: State, values: Values, profile: Profile) -> _Bytes: ...

    def increment(self, before: State, values: int, present: Sequence[Profile]) -> int: ...


class _ByWidth:
    """Sizes by the number of values and the width of one value of each kind."""

    def __init__(self, net: Net, state: State, codec: str) -> None:
        parts = kinds(net, state.shared, state.aux, codec)
        dtypes = {kind: {t.dtype for t in part.values()} for kind, part in parts.items()}
        trained = dtypes["factors"] | dtypes["dense"] or {torch.float32}
        self._widths = {kind: max(width(codec, each) for each in found or trained) for kind, found in dtypes.items()}
        self._increment = max(dtype.itemsize for dtype in dtypes["factors"] or trained)

    def exchange(self, before: State, values: Values, profile: Profile) -> _Bytes:
        down, up = ({kind: n * self._widths[kind] for kind, n in way.items()} for way in (values.down, values.up))
        return _Bytes(down, up)

    def increment(self, before: State, values: int, present: Sequence[Profile]) -> int:
        return values * self._increment


class _ByShape:
    """Sizes by the tensors of clients that change nothing; in rounds with equal values, tensors have equal shapes."""

    def __init__(self, net: Net, method: Method, initial: State, codec: str) -> None:
        self._net, self._method, self._initial, self._codec = net, method, initial, codec
        self._exchanges: dict[Hashable, _Bytes] = {}
        self._increments: dict[Hashable, int] = {}

    def exchange(self, before: State, values: Values, profile: Profile) -> _Bytes:
        key = (profile, before.version % 2, *sorted(values.down.items()), *sorted(values.up.items()))
        if key not in self._exchanges:
            down, up = untrained(self._net, self._method, self._at(before), profile)
            received = self._bytes(down)
            if not values.down.get("factors"):  # the client draws them
                received["factors"] = 0
            self._exchanges[key] = _Bytes(received, self._bytes(up))
        return self._exchanges[key]

    def increment(self, before: State, values: int, present: Sequence[Profile]) -> int:
        key = (values, before.version % 2, *sorted(present))
        if key not in self._increments:
            after = self._server(self._at(before), present)
            increment = lowrank.sent_part(self._net.sites, after.base, after.increment)
            self._increments[key] = tree.nbytes(outline(increment, increment_widths(increment, self._codec)))
        return self._increments[key]

    def _at(self, before: State) -> State:
        return at_version(self._net, self._initial, before.round, before.version)

    def _bytes(self, sent: Down | Up) -> dict[str, int]:
        parts = kinds(self._net, sent.shared, sent.aux, self._codec)
        return {kind: payload({kind: part}, self._codec) for kind, part in parts.items()}

    def _server(self, state: State, present: Sequence[Profile]) -> State:
        """Return the state after a round in which clients of the profiles ``present`` change nothing."""
        total = NOTHING
        for profile, clients in sorted(Counter(present).items()):
            down, up = untrained(self._net, self._method, state, profile)
            total = total.join(self._method.reduce(self._net, state, down, [up] * clients, [1.0] * clients), self._net)
        return self._method.server(self._net, state, total)


def _times(clients: int, one: _Bytes) -> Traffic:
    """Return the bytes of ``clients`` clients."""
    return Traffic(*({kind: count * clients for kind, count in way.items()} for way in one))


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
