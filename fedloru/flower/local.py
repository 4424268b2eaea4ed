"""A Flower Grid in one process: it runs the client apps in order, for tests and to try out a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from fedloru.flower.post import Exchange

SERVER = 1
"""The number of the server's node."""


class LocalGrid(Exchange):
    """A grid whose nodes are ``apps``, by index of the client; a client without an app is not connected.

    Messages are serialized and read again, so server and clients share no memory. An app runs when its answer is
    collected. ``change`` may replace an answer, as a faulty or hostile client would, or lose it (None).
    """

    def __init__(
        self, apps: Mapping[int, ClientApp], change: Callable[[int, Message], Message | None] | None = None
    ) -> None:
        self.apps = dict(apps)
        self.change = change
        self._waiting: dict[str, Message] = {}
        self._connected = dict.fromkeys(self.apps, 0)

    def connect(self, client: int, app: ClientApp | None) -> None:
        """Connect a client again with ``app``, or disconnect it."""
        self.apps.pop(client, None)
        if app is not None:
            self.apps[client] = app
            self._connected[client] = self._connected.get(client, 0) + 1

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the connected clients."""
        return [
            NodeInfo(node_id=node(client), status="online", last_activated_at=str(self._connected[client]))
            for client in sorted(self.apps)
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep messages until their answers are collected."""
        ids = []
        for message in messages:
            sent = _copied(message)
            self._waiting[sent.metadata.message_id] = sent
            ids.append(sent.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the apps that have received one of the messages, and return their answers."""
        answers = []
        for sent in message_ids:
            message = self._waiting.get(sent)
            client = None if message is None else message.metadata.dst_node_id - node(0)
            if message is None or client not in self.apps:
                continue
            del self._waiting[sent]
            if (answer := self._answer(client, message)) is not None:
                answers.append(answer)
        return answers

    def bound(self, nbytes: int) -> None:
        """Do nothing: answers are in memory already."""

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Forget messages."""
        for name in message_ids:
            self._waiting.pop(name, None)

    def _answer(self, client: int, message: Message) -> Message | None:
        with _identity(node(client)):
            context = Context(run_id=1, node_id=node(client), node_config={}, state=RecordDict(), run_config={})
            answer: Message | None = self.apps[client](message, context)
            if self.change is not None and answer is not None:
                answer = self.change(client, answer)
            return None if answer is None else _copied(answer)


def node(client: int) -> int:
    """Return the number of the node of a client."""
    return client + SERVER + 1


def client_of(info: NodeInfo) -> int:
    """Return the index of the client of a node."""
    return int(info.node_id) - node(0)


@contextmanager
def _identity(node_id: int) -> Iterator[None]:
    """Set the number of the node that runs in this process, which Flower writes into messages."""
    before = TaskIdentity._node_id
    TaskIdentity.node_id = node_id
    try:
        yield
    finally:
        TaskIdentity._node_id = before


def identify_server() -> None:
    """Set the numbers that Flower writes into the messages of this process to those of a server."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SERVER, 1


def _copied(message: Message) -> Message:
    """Return the message that arrives if ``message`` is sent."""
    with no_object_id_recompute():
        name = message.object_id
        contents = {key: each.deflate() for key, each in get_all_nested_objects(message).items()}
    copy = cast(Message, inflate_object_from_contents(name, contents))
    copy.metadata.__dict__["_message_id"] = name
    return copy
