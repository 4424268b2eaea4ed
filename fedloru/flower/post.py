"""Sends requests to the nodes of a Flower Grid, and collects their answers."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedloru.errors import WireError, plain
from fedloru.flower.envelope import Enclosed, enclosed, record

TTL = 30 * 24 * 3600.0
"""The seconds for which Flower keeps a message; our own deadlines are shorter."""
PAUSE = 0.1
"""The number of seconds between looks at what has arrived."""


class Node(NamedTuple):
    """A connected client: its index, its number in Flower, and when it connected."""

    client: int
    id: int
    connected: str


class Answer(NamedTuple):
    """The answer to the request ``request``: its content, or why there is none, or why it is ``invalid``."""

    request: str
    content: Enclosed | None
    problem: str = ""
    invalid: bool = False


class Exchange(Grid):
    """A Grid that can withdraw messages, and bound the answers."""

    _run = Run.create_empty(0)

    @abstractmethod
    def bound(self, nbytes: int) -> None:
        """Refuse answers of more than ``nbytes`` bytes before their content is received."""

    @abstractmethod
    def cancel(self, message_ids: Iterable[str]) -> None:
        """Remove messages, whether they have been delivered or not; answers to them are dropped."""

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    def get_node_ids(self) -> Iterable[int]:
        """Return the numbers of the connected nodes."""
        return [node.node_id for node in self.get_nodes()]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages, and return the answers that arrive within ``timeout`` seconds; None: all of them."""
        open, answers = set(self.push_messages(messages)), list[Message]()
        end = math.inf if timeout is None else time.monotonic() + timeout
        while open and time.monotonic() < end:
            arrived = list(self.pull_messages(open))
            answers += arrived
            open -= {answer.metadata.reply_to_message_id for answer in arrived}
            time.sleep(PAUSE if open else 0)
        return answers


class Post:
    """Exchanges messages with clients over ``grid``; ``who`` returns the index of the client of a node, if enrolled."""

    def __init__(self, grid: Exchange, who: Callable[[NodeInfo], int | None]) -> None:
        self.grid, self.who = grid, who

    def nodes(self) -> dict[int, Node]:
        """Return the connected clients by index."""
        found = ((self.who(info), info) for info in self.grid.get_nodes())
        return {
            client: Node(client, info.node_id, info.last_activated_at)
            for client, info in found
            if client is not None and info.status == "online"
        }

    def send(self, node: Node, kind: str, content: Enclosed, group: str) -> str:
        """Send a request, and return its id.

        Raises:
            WireError: Flower does not take it.
        """
        message = Message(record(content), node.id, kind, ttl=TTL, group_id=group)
        ids = list(self.grid.push_messages([message]))
        if not ids or not ids[0]:
            raise WireError("a message could not be sent: it is too large, or the client has left")
        return ids[0]

    def cancel(self, requests: Iterable[str]) -> None:
        """Withdraw requests whose answers nobody waits for any more, so that a client does not work on them."""
        self.grid.cancel(requests)

    def collect(self, requests: Collection[str], names: Callable[[str], str]) -> list[Answer]:
        """Return the answers that have arrived to ``requests``; ``names`` says from whom each is.

        Answers to other requests, and second answers, are dropped.
        """
        if not requests:
            return []
        arrived = {message.metadata.reply_to_message_id: message for message in self.grid.pull_messages(list(requests))}
        return [_answer(message, names) for request, message in arrived.items() if request in requests]


def _answer(message: Message, names: Callable[[str], str]) -> Answer:
    request = message.metadata.reply_to_message_id
    if message.has_error():
        reason = plain(message.error.reason or "", 200)
        return Answer(request, None, f"it did not reply (Flower code {message.error.code}: {reason})")
    try:
        return Answer(request, enclosed(message, names(request)))
    except WireError as error:
        return Answer(request, None, str(error), invalid=True)
