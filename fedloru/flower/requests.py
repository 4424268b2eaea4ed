"""The requests of a round: the order to train, or the question for scores, with all tensors that a client needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fedloru import wire
from fedloru.flower import protocol
from fedloru.flower.bases import Bases
from fedloru.flower.envelope import Enclosed
from fedloru.flower.member import answer_hash
from fedloru.flower.protocol import Order
from fedloru.method import Down, Profile, State
from fedloru.run.carrier import Invited
from fedloru.run.plan import Plan
from fedloru.wire import MessageSpec, Sync, Traffic
from fedloru.wire.sections import elide, sync_outline


class Request(NamedTuple):
    """A request, the hash that its answer contains, what the client receives, and the bytes of its tensors."""

    content: Enclosed
    answers: str
    down: Down
    spec: MessageSpec
    traffic: Traffic


class _Down(NamedTuple):
    data: bytes
    answered: Down
    traffic: Traffic


class Requests:
    """Makes the requests of a run; ``run`` is the hash of W₀, ``oldest`` returns the round of the oldest checkpoint."""

    def __init__(self, plan: Plan, run: str, bases: Bases, oldest: Callable[[], int]) -> None:
        self.plan, self.run, self.bases, self.oldest = plan, run, bases, oldest
        self._specs: dict[Profile, MessageSpec] = {}
        self._downs: tuple[int, dict[Profile, _Down]] = 0, {}

    def make(self, kind: type[Order], state: State, invited: Invited, last: int) -> Request:
        """Return the request for one client at the start of the round after ``state``.

        ``last`` is the last round in which a reply of the client was accepted.
        """
        down = self._down(state, invited.profile)
        sync = self._sync(state, invited.sync)
        order = kind(
            round=state.round + 1,
            version=state.version,
            base=self.bases.hash(state),
            client=invited.client,
            profile=list(invited.profile),
            sync=len(sync),
            last=last,
            oldest=self.oldest(),
        )
        content = Enclosed(protocol.text(order), sync + down.data)
        traffic = down.traffic + self._sync_traffic(invited.sync, len(sync))
        return Request(content, answer_hash(*content), down.answered, self.spec(invited.profile), traffic)

    def spec(self, profile: Profile) -> MessageSpec:
        """Return what the messages of a client of ``profile`` contain."""
        if profile not in self._specs:
            self._specs[profile] = MessageSpec(self.plan.net, self.plan.method, self.run, profile)
        return self._specs[profile]

    def _down(self, state: State, profile: Profile) -> _Down:
        """Return the down message of a round, which all clients of a profile receive."""
        if self._downs[0] != state.round + 1:
            self._downs = state.round + 1, {}
        known = self._downs[1]
        if profile not in known:
            net, method, codec = self.plan.net, self.plan.method, self.plan.codec
            sent = method.down(net, state, profile)
            data = wire.encode_down(net, sent, state, method=method.name, run=self.run, codec=codec)
            _, received = wire.decode_down(data, self.spec(profile))
            elided = elide(net, sent)
            parts = wire.kinds(net, elided.shared, elided.aux, codec)
            answered = wire.answered(received._replace(shared=sent.shared, aux=sent.aux), received, codec)
            known[profile] = _Down(data, answered, Traffic().message("down", parts, codec, length=len(data)))
        return known[profile]

    def _sync(self, state: State, sync: Sync) -> bytes:
        if not sync.increments and not sync.base:
            return b""
        return wire.encode_sync(sync, state, method=self.plan.method.name, run=self.run, codec=self.plan.codec)

    def _sync_traffic(self, sync: Sync, length: int) -> Traffic:
        if not length:
            return Traffic()
        nbytes = wire.payload(sync_outline(sync, self.plan.codec), "exact")
        kind = "first_download" if sync.first else "increments"
        return Traffic(down={kind: nbytes, "envelope": length - nbytes})
