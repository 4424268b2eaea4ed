"""One round of a federation: invite clients, collect and check their replies, replace those that leave."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fedloru.errors import FedloruError, WireError, counted
from fedloru.flower import protocol
from fedloru.flower.envelope import TRAIN
from fedloru.flower.guests import REMIND, Guests
from fedloru.flower.post import Answer, Node
from fedloru.flower.protocol import Order, Refusal, Report
from fedloru.flower.replies import Limits, Reply, validated
from fedloru.flower.requests import Request, Requests
from fedloru.method import Profile
from fedloru.run.carrier import Assignment, Invited
from fedloru.run.federation import Federation
from fedloru.wire import Traffic, kinds

TRIES = 3
"""How often a client is asked in one round."""

log = logging.getLogger(__name__)


class Open(NamedTuple):
    """A request without an answer yet; ``until`` is when the server stops waiting for it."""

    node: Node
    request: Request
    profile: Profile
    until: float


class Round:
    """A round that is being carried out; ``late`` are open requests of earlier rounds, whose answers are dropped."""

    def __init__(
        self,
        assignment: Assignment,
        guests: Guests,
        requests: Requests,
        rules: Federation,
        size: int,
        last: Mapping[int, int],
        late: dict[str, Open],
    ) -> None:
        self.assignment, self.guests, self.requests, self.rules = assignment, guests, requests, rules
        self.size, self.last, self.late = size, last, late
        self.open: dict[str, Open] = {}
        self.replies: dict[int, Reply] = {}
        self.seconds: dict[int, float] = {}
        self.accounts: dict[Profile, Traffic] = {}
        self.by_client: dict[int, Traffic] = {}
        self.downs: dict[Profile, Request] = {}
        self.refused: list[tuple[int, str]] = []
        self.lost: list[int] = []
        self.dropped = 0
        self._tries: Counter[Node] = Counter()

    @property
    def status(self) -> str:
        """How many of the replies have arrived."""
        replies, outstanding = f"{len(self.replies)} of {self.size} replies", f"{len(self.open)} outstanding"
        return f"round {self.assignment.round}: {replies}, {outstanding}"

    def carry(self) -> None:
        """Return when the round is closed.

        Raises:
            FedloruError: the quorum cannot be reached, and no other client will connect.
        """
        self._invite(self.assignment.cohort)
        quorum = self.rules.quorum_of(self.size)
        reminded = time.monotonic()
        while True:
            self._collect()
            self._drop_lost()
            if len(self.replies) >= self.size:
                break
            ended = not self._substitute() and not self.open
            if ended and len(self.replies) >= quorum:
                break
            if ended and not self.guests.patient:
                raise self._hopeless(quorum)
            if time.monotonic() - reminded > REMIND:
                reminded = time.monotonic()
                self._tries.clear()  # what prevented clients from replying may be mended
                log.warning("waiting for replies: %s", self.status)
            time.sleep(self.guests.pause)
        self.late |= self.open

    def _invite(self, clients: Iterable[Invited]) -> None:
        for invited in clients:
            guest = self.guests.known.get(invited.client)
            if guest is None:  # it has left since
                continue
            self._tries[guest.node] += 1
            request = self.requests.make(Order, self.assignment.state, invited, self.last.get(invited.client, 0))
            try:
                sent = self.guests.post.send(guest.node, TRAIN, request.content, str(self.assignment.round))
            except WireError as error:
                self._lose(guest.node, str(error))
                continue
            until = time.monotonic() + self.rules.deadline
            self.open[sent] = Open(guest.node, request, invited.profile, until)
            self.downs.setdefault(invited.profile, request)
            self._count(invited.client, invited.profile, request.traffic)

    def _collect(self) -> None:
        """Read the answers that have arrived; those to earlier rounds are dropped."""
        waiting = self.open | self.late
        for answer in self.guests.post.collect(list(waiting), lambda sent: self.guests.name(waiting[sent].node.client)):
            if answer.request in self.late:
                del self.late[answer.request]
                self.dropped += 1
            elif len(self.replies) >= self.size:
                del self.open[answer.request]
                self.dropped += 1
            else:
                self._read(answer, self.open.pop(answer.request))

    def _read(self, answer: Answer, asked: Open) -> None:
        client, round = asked.node.client, self.assignment.round
        guest = self.guests.known.get(client)
        if answer.content is None and not answer.invalid:
            self._lose(asked.node, answer.problem)
            return
        try:
            if answer.content is None:
                raise WireError(answer.problem)
            content = protocol.answer(answer.content.text, Report, self.guests.name(client))
            if isinstance(content, Refusal):
                self._refused(asked.node, content)
                return
            if guest is None or client in self.replies:
                raise WireError("it is a second reply, or its client has left")
            reply = validated(
                content,
                answer.content.tensors,
                asked.request.spec,
                asked.request.down,
                Limits(guest.greeting.examples, self.rules.max_norm),
                client=client,
                round=round,
                version=self.assignment.state.version,
                answers=asked.request.answers,
            )
        except WireError as error:
            self._refuse(client, str(error))
            self._tries[asked.node] = TRIES  # it would send the same again
            return
        self.replies[client], self.seconds[client] = reply, content.seconds
        plan = self.requests.plan
        parts = kinds(plan.net, reply.up.shared, reply.up.aux, plan.codec)
        self._count(client, asked.profile, Traffic().message("up", parts, plan.codec, length=reply.nbytes))

    def _refused(self, node: Node, refusal: Refusal) -> None:
        """Note what a client holds if it could not follow an order, so that it is asked again with what it lacks."""
        client = node.client
        if refusal.leave:
            self.guests.leave(client, refusal.reason)
            self.refused.append((client, refusal.reason))
            return
        behind = (refusal.held, refusal.base) != (
            self.assignment.state.version,
            self.requests.bases.hash(self.assignment.state),
        )
        if behind:
            self.guests.hold(client, refusal.held, refusal.base)
        else:
            self._tries[node] = TRIES
        self._refuse(client, refusal.reason)

    def _refuse(self, client: int, reason: str) -> None:
        self.refused.append((client, reason))
        self.guests.problems[client] = reason
        log.warning(
            "round %d: the reply of %s is not used: %s", self.assignment.round, self.guests.name(client), reason
        )

    def _lose(self, node: Node, problem: str) -> None:
        self.lost.append(node.client)
        log.warning("round %d: %s: %s", self.assignment.round, self.guests.name(node.client), problem)

    def _drop_lost(self) -> None:
        """Stop waiting for clients that have left, have connected again, or have missed the deadline."""
        self.guests.update()
        now = time.monotonic()
        for sent, asked in list(self.open.items()):
            client = asked.node.client
            guest = self.guests.known.get(client)
            there = guest is not None and guest.node == asked.node
            if there and now < asked.until:
                continue
            del self.open[sent]
            if there:
                self.late[sent] = asked
                self._tries[asked.node] = TRIES
                self._lose(asked.node, f"it missed the deadline of {self.rules.deadline:g} s")
            else:
                self.guests.post.cancel([sent])
                self._lose(asked.node, "it has left")

    def _substitute(self) -> bool:
        """Invite other clients if the replies and the open requests are fewer than the cohort; return if there are."""
        missing = self.size - len(self.replies) - len(self.open)
        if missing <= 0:
            return False
        asked = {each.node.client for each in self.open.values()}
        free = [
            client
            for client, guest in self.guests.known.items()
            if client not in self.replies and client not in asked and self._tries[guest.node] < TRIES
        ]
        chosen = list(self.assignment.order(free))[:missing]
        self._invite(self.assignment.invite(chosen))
        return bool(chosen)

    def _hopeless(self, quorum: int) -> FedloruError:
        reasons = dict.fromkeys(self.lost, "it did not reply") | dict(self.refused)
        each = [f"{self.guests.name(client)}: {reason}" for client, reason in sorted(reasons.items())]
        every = "; ".join(each) or "no other client is connected"
        count = f"round {self.assignment.round}: {counted(len(self.replies), 'client has', 'clients have')} replied"
        return FedloruError(f"{count}, but the quorum is {quorum} (federation.quorum): {every}")

    def _count(self, client: int, profile: Profile, traffic: Traffic) -> None:
        self.accounts[profile] = self.accounts.get(profile, Traffic()) + traffic
        self.by_client[client] = self.by_client.get(client, Traffic()) + traffic
