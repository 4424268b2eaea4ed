"""The in-process wire of the simulation engines: encodes, counts and decodes every message.

The messages of a chunk of clients are encoded together, with the bytes that each would have alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby

from torch import Size, Tensor, dtype

from fedloru.method import Down, Profile, State, Up
from fedloru.net import Net
from fedloru.tree import Params
from fedloru.wire.batch import sent as encoded
from fedloru.wire.codec import payload
from fedloru.wire.exchange import down_header, sync_length
from fedloru.wire.header import Header
from fedloru.wire.ledger import Sync
from fedloru.wire.sections import answered, down_sections, elide, received, replied, sync_outline, up_sections
from fedloru.wire.traffic import Direction, Traffic, kinds


class Channel:
    """A wire between a server and its simulated clients, which counts the traffic of each profile.

    With ``round_trip=False``, messages are not encoded: tensors arrive unchanged, without the rounding of the codec,
    the payload is counted by formula, and the envelope is counted as 0. Both ends are one process, so messages are not
    compared with a ``MessageSpec``.
    """

    def __init__(self, net: Net, method: str, run: str, codec: str, round_trip: bool = True) -> None:
        self.net, self.method, self.run, self.codec = net, method, run, codec
        self.measured = round_trip
        self.accounts: defaultdict[Profile, Traffic] = defaultdict(Traffic)
        self._answered: dict[Profile, Down] = {}
        self._sync_round = 0
        self._sync_lengths: dict[tuple[bool, bool, int], int] = {}

    @property
    def traffic(self) -> Traffic:
        """The sum of all accounts."""
        return sum(self.accounts.values(), Traffic())

    def down(self, down: Down, state: State, clients: int, profile: Profile = ()) -> Down:
        """Send one message to each of ``clients`` clients of a profile, and return it as they receive it.

        Raises:
            WireError: a value does not fit into the codec.
        """
        if not self.measured:
            self._count(profile, "down", elide(self.net, down), None, clients)
            return down
        sent = elide(self.net, down)
        header = down_header(self.net, down, state, method=self.method, run=self.run)
        (message,) = encoded([header], [down_sections(self.net, sent, state, self.codec)], self.codec)
        self._count(profile, "down", sent, message.length * clients, clients)
        arrived = received(self.net, header, message.tensors, down)
        shared, aux = _like(arrived.shared, down.shared), _like(arrived.aux, down.aux)
        arrived = arrived._replace(shared=shared, aux=aux, base=down.base)
        sent = down._replace(seed=arrived.seed, round=arrived.round, version=arrived.version)
        self._answered[profile] = answered(sent, arrived, self.codec)
        return arrived

    def answered(self, down: Down, profile: Profile) -> Down:
        """Return the message to which the server takes replies to ``down`` to refer, the last one to this profile."""
        return self._answered.get(profile, down)

    def up(
        self,
        up: Up,
        down: Down,
        client: int,
        round: int,
        version: int,
        numbers: Mapping[str, float],
        profile: Profile = (),
    ) -> Up:
        """Send the reply of one client; see ``replies``."""
        return self.replies([up], down, [client], round, version, [numbers], profile)[0]

    def replies(
        self,
        ups: Sequence[Up],
        down: Down,
        clients: Sequence[int],
        round: int,
        version: int,
        numbers: Sequence[Mapping[str, float]],
        profile: Profile = (),
    ) -> list[Up]:
        """Send the replies of clients of a profile to ``down``, and return them as the server receives them.

        Raises:
            WireError: a value does not fit into the codec, or a number is not finite.
        """
        if not self.measured:
            for up in ups:
                self._count(profile, "up", up, None)
            return list(ups)
        headers = [
            Header("up", self.method, self.run, round, version, client, numbers=dict(each))
            for client, each in zip(clients, numbers, strict=True)
        ]
        sections = [up_sections(self.net, up, down, k, self.codec) for k, up in zip(clients, ups, strict=True)]
        messages = list(encoded(headers, sections, self.codec))
        pairs = list(zip(ups, messages, strict=True))
        for _, alike in groupby(pairs, key=lambda pair: _shapes(pair[0])):
            group = list(alike)
            self._count(profile, "up", group[0][0], sum(message.length for _, message in group), len(group))
        origin = self.answered(down, profile)
        arrived = [(up, replied(message.tensors, up, origin)) for up, message in pairs]
        return [Up(_like(got.shared, up.shared), _like(got.aux, up.aux)) for up, got in arrived]

    def sync(self, sync: Sync, state: State, profile: Profile = ()) -> None:
        """Count the sync message to one client of a profile; an up-to-date client receives none."""
        if not sync.increments and not sync.base:
            return
        nbytes = payload(sync_outline(sync, self.codec), "exact")
        envelope = self._sync_length(sync, state) - nbytes if self.measured else 0
        kind = "first_download" if sync.first else "increments"
        self.accounts[profile] += Traffic(down={kind: nbytes, "envelope": envelope})

    def _sync_length(self, sync: Sync, state: State) -> int:
        """Return the length of a sync message, computed once per round for all clients at the same version."""
        if self._sync_round != state.round:
            self._sync_round, self._sync_lengths = state.round, {}
        content = (sync.first, bool(sync.base), len(sync.increments))
        if content not in self._sync_lengths:
            names = {"method": self.method, "run": self.run, "codec": self.codec}
            self._sync_lengths[content] = sync_length(sync, state, **names)
        return self._sync_lengths[content]

    def _count(
        self, profile: Profile, direction: Direction, sent: Down | Up, length: int | None, copies: int = 1
    ) -> None:
        """Count ``copies`` messages with the tensors of ``sent``, whose lengths add up to ``length``."""
        split = kinds(self.net, sent.shared, sent.aux, self.codec)
        self.accounts[profile] = self.accounts[profile].message(
            direction, split, self.codec, length=length, copies=copies
        )


def _shapes(up: Up) -> list[tuple[str, Size, dtype]]:
    return [(key, t.shape, t.dtype) for part in up for key, t in part.items()]


def _like(received: Params, sent: Mapping[str, Tensor]) -> Params:
    return {key: received[key].to(value.device) for key, value in sent.items()}
