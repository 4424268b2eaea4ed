"""The clients that are connected to the server: greeting them, and what they say they hold."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from fedloru.errors import ConfigError, WireError, listed
from fedloru.flower import protocol
from fedloru.flower.envelope import HELLO, Enclosed
from fedloru.flower.post import Answer, Node, Post
from fedloru.flower.protocol import Goodbye, Greeting, Hello, Refusal, differing
from fedloru.flower.roster import Client, Roster

GRACE, START = 15.0, 30.0
"""The number of seconds for which a round waits for clients that have just connected, and the first one for all."""
ANSWER = 1800.0
"""The number of seconds for which the server waits for the answer to a greeting: a client loads its data and model."""
REMIND = 60.0
"""The number of seconds between messages that the server is still waiting."""

log = logging.getLogger(__name__)


class Guest(NamedTuple):
    """A connected client that has accepted the terms."""

    node: Node
    greeting: Greeting


class _Asked(NamedTuple):
    node: Node
    at: float


class Guests:
    """The connected clients of a federation.

    ``hello`` returns the terms for a client, ``max_examples`` bounds the examples that it may state, and ``pause`` is
    the number of seconds between looks at what has arrived. If not ``patient``, clients that are missing are an error,
    because no other will connect; ``check`` may raise an error at any time. ``stated`` are the clients that have said
    what they hold since the ledger was last corrected, ``problems`` say why clients do not take part, and ``status``
    what the server waits for.
    """

    def __init__(
        self,
        post: Post,
        roster: Roster,
        hello: Callable[[int, str], Hello],
        *,
        max_examples: int,
        pause: float,
        patient: bool,
        check: Callable[[], None],
    ) -> None:
        self.post, self.roster, self._hello = post, roster, hello
        self.max_examples, self.pause, self.patient, self._check = max_examples, pause, patient, check
        self.known: dict[int, Guest] = {}
        self.stated: set[int] = set()
        self.problems: dict[int, str] = {}
        self.status = ""
        self._asked: dict[str, _Asked] = {}
        self._left: dict[int, tuple[str, float]] = {}
        self._grace = START

    @property
    def enrolled(self) -> list[Client]:
        """The enrolled clients by index."""
        return self.roster.clients

    def name(self, client: int) -> str:
        """Return the name of a client."""
        return self.enrolled[client].name

    def wait(self, needed: int, all: int, busy: Callable[[], set[int]]) -> Sequence[int]:
        """Return the clients that are present and not busy; wait until there are ``needed``.

        Clients that have just connected are waited for, and the first time, all ``all`` clients, but not for long.
        """
        start = reminded = time.monotonic()
        grace, self._grace = self._grace, GRACE
        while True:
            there = [client for client in self.update() if client not in busy()]
            now = time.monotonic()
            complete = len(there) >= all or (not self._asked and grace == GRACE)
            self.status = f"waiting for clients: {len(there)} of {all} are connected, at least {needed} are needed"
            if len(there) >= needed and (complete or not self.patient or now - start > grace):
                self.status = ""
                return there
            if not self.patient and not self._asked:
                reasons = [f"{self.name(client)}: {reason}" for client, reason in self.problems.items()]
                raise ConfigError(reasons or ["no client is connected"], "the federation")
            if now - reminded > REMIND:
                reminded = now
                names = listed([self.name(client) for client in there]) or "none"
                log.warning("%s (%s)", self.status, names)
            time.sleep(self.pause)

    def update(self) -> list[int]:
        """Greet the clients that have connected, read their answers, and return those that are present."""
        self._check()
        self._listen()  # first: a client that refuses the terms leaves as soon as it has said so
        nodes = self.post.nodes()
        for client, guest in list(self.known.items()):
            if nodes.get(client) != guest.node:
                del self.known[client]
        self._give_up()
        gone = [request for request, asked in self._asked.items() if asked.node not in nodes.values()]
        self.post.cancel(gone)
        for request in gone:
            del self._asked[request]
        waiting = {asked.node for asked in self._asked.values()}
        for client, node in nodes.items():
            connected, until = self._left.get(client, ("", 0.0))
            left = connected == node.connected and time.monotonic() < until
            if client not in self.known and node not in waiting and not left:
                self._greet(node)
        if not self.patient:  # clients in this process have answered already
            self._listen()
        return sorted(self.known)

    def _give_up(self) -> None:
        """Stop waiting for the answers to greetings that are overdue."""
        now = time.monotonic()
        for request, asked in list(self._asked.items()):
            if now - asked.at > ANSWER:
                self.post.cancel([request])
                del self._asked[request]
                self._put_off(asked.node, f"it has not answered in {ANSWER:g} s", final=False)

    def _listen(self) -> None:
        """Read the answers to greetings that have arrived."""
        for answer in self.post.collect(list(self._asked), lambda request: self.name(self._asked[request].node.client)):
            self._read(answer, self._asked.pop(answer.request).node)

    def hold(self, client: int, held: int | None, base: str) -> None:
        """Note what a client says it holds now."""
        guest = self.known.get(client)
        if guest is not None:
            self.known[client] = guest._replace(greeting=guest.greeting.model_copy(update={"held": held, "base": base}))
            self.stated.add(client)

    def leave(self, client: int, reason: str) -> None:
        """Forget a client until it connects again."""
        guest = self.known.pop(client, None)
        if guest is not None:
            self._left[client] = guest.node.connected, math.inf
        self.problems[client] = reason
        log.warning("%s does not take part: %s", self.name(client), reason)

    def _greet(self, node: Node) -> None:
        hello = self._hello(node.client, self.name(node.client))
        try:
            request = self.post.send(node, HELLO, Enclosed(protocol.text(hello)), "hello")
        except WireError as error:
            self._put_off(node, str(error), final=False)
            return
        self._asked[request] = _Asked(node, time.monotonic())

    def _read(self, answer: Answer, node: Node) -> None:
        content: Greeting | Refusal | None = None
        try:
            if answer.content is None:
                raise WireError(answer.problem)
            content = protocol.answer(answer.content.text, Greeting, self.name(node.client))
            reason = content.reason if isinstance(content, Refusal) else self._unacceptable(node.client, content)
        except WireError as error:
            reason = str(error)
        if isinstance(content, Greeting) and not reason:
            self.known[node.client] = Guest(node, content)
            self.stated.add(node.client)
            self.problems.pop(node.client, None)
        else:
            final = isinstance(content, Greeting) or (isinstance(content, Refusal) and content.leave)
            self._put_off(node, reason, final=final)
            if isinstance(content, Greeting):
                self._goodbye(node, f"the server does not accept this client: {reason}", False)

    def _put_off(self, node: Node, reason: str, *, final: bool) -> None:
        """Greet a client again after some time, or if ``final``, once it connects again."""
        again = math.inf if final or not self.patient else time.monotonic() + REMIND
        self._left[node.client] = node.connected, again
        self.problems[node.client] = reason
        log.warning("%s does not take part: %s", self.name(node.client), reason)

    def dismiss(self, reason: str, finished: bool, seconds: float) -> None:
        """Say goodbye to all clients, and wait up to ``seconds`` until they have heard it."""
        open = {sent for guest in self.known.values() if (sent := self._goodbye(guest.node, reason, finished))}
        end = time.monotonic() + seconds
        while open and time.monotonic() < end:
            open -= {answer.request for answer in self.post.collect(open, lambda sent: "a client")}
            time.sleep(self.pause if open else 0)

    def _goodbye(self, node: Node, reason: str, finished: bool) -> str | None:
        goodbye = protocol.text(Goodbye(reason=reason, finished=finished))
        with suppress(WireError):  # it has left already
            return self.post.send(node, HELLO, Enclosed(goodbye), "goodbye")
        return None

    def _unacceptable(self, client: int, greeting: Greeting) -> str:
        """Return why a client is not accepted; "" if it is."""
        if other := differing(greeting.fedloru, greeting.flwr):
            return f"it runs {other}, which the server runs: install the same version"
        limit = self.enrolled[client].max_examples or self.max_examples
        if not 1 <= greeting.examples <= limit:
            return (
                f"it states {greeting.examples:,} examples; expected 1 to {limit:,} (federation.max_examples, or "
                "`fedloru enroll --max-examples`)"
            )
        return ""
