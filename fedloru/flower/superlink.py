"""Flower's SuperLink in this process, for clients only.

It listens on loopback without TLS; ``proxy``, nginx or Caddy is in front of it. Its routes for operators, which start
runs and register clients without any authentication, are not served at all, not even on loopback: the server enrolls
clients and sends messages by calling Flower in this process. No code is ever sent to clients, and none is received.

The names and numbers of nodes are kept in a database file; messages are not worth keeping, since a run that was
interrupted asks again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, cast

import uvicorn
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID, SubStatus
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate import LinkState
from flwr.serverapp import Grid
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Receive, Scope, Send

from fedloru.errors import FedloruError
from fedloru.flower.keys import line_to_bytes
from fedloru.flower.roster import Roster
from fedloru.flower.routes import FLEET, PREFIX

DATABASE = "superlink.db"
BEAT = 10.0
"""The number of seconds between signs of life of the run, which Flower ends after 60 without."""
CHUNK = 5 * 2**20
"""The size of the pieces in which Flower sends an array, in bytes."""
LONG_POLL, POLL = 15.0, 0.05
"""How long a request for messages is kept, and how often it is looked at, in seconds."""
UPLOAD_SECONDS = 600.0
"""How long the parts of an answer may take to arrive."""
SMALL = 2**16
"""The largest request for messages, in bytes."""
START_SECONDS = STOP_SECONDS = 15.0

logging.getLogger("flwr").setLevel(logging.WARNING)
for name, value in {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}.items():
    os.environ.setdefault(name, value)


class SuperLink:
    """Flower's server for the clients in ``roster``, on a port of 127.0.0.1; a context manager.

    Args:
        roster: the enrolled clients.
        folder: where the database is.
        port: the port to listen on; 0: any free one.
        max_message: the largest message from a client that is accepted, in bytes.
    """

    def __init__(self, roster: Roster, folder: Path, port: int = 0, max_message: int = 2**32) -> None:
        self.roster, self.port, self.max_message = roster, port, max_message
        self._app = create_app(_config(folder / DATABASE), cast(Any, _Lifespan))
        self.state: LinkState = self._app.state.linkstate_factory.state()
        self._app.state.linkstate_factory.state = lambda: self.state
        _bound(self.state, max_message)
        self.mailboxes = Mailboxes()
        self._nodes: dict[bytes, int] = {}
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Enroll the clients, and listen.

        Raises:
            FedloruError: it did not start.
        """
        for run in self.state.get_run_info():  # of a server that was interrupted
            self.state.stop_run(run.run_id)
        self.enroll()
        config = uvicorn.Config(
            _Gate(self._app, self.mailboxes),
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            log_level="critical",
            access_log=False,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="superlink", daemon=True)
        self._thread.start()
        end = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                raise FedloruError(f"Flower's server did not start on 127.0.0.1:{self.port}: is the port in use?")
            time.sleep(0.05)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def enroll(self) -> None:
        """Register the clients of the roster that are not yet, and remove those that it has removed."""
        for index, client in enumerate(self.roster.clients):
            key = line_to_bytes(client.key)
            node = self.state.get_node_id_by_public_key(key)
            if client.removed:
                if node is not None:
                    self.state.delete_node(NOOP_FLWR_AID, node)
                self._nodes.pop(key, None)
                continue
            if node is None:
                self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0)
            self._nodes[key] = index

    def who(self, node: NodeInfo) -> int | None:
        """Return the index of the client of a node; None if it is not enrolled."""
        return self._nodes.get(node.public_key)


class SuperLinkGrid(Grid):
    """The grid of a ``SuperLink`` in this process: a run of Flower's, for as long as the context lasts."""

    def __init__(self, link: SuperLink) -> None:
        self.link, self.state = link, link.state
        self._stop = threading.Event()
        self._arriving: dict[str, tuple[Message, float]] = {}

    def __enter__(self) -> Self:
        """Start a run."""
        state = self.state
        self._run_id = state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        runs = state.get_run_info(run_ids=[self._run_id])
        self._task = runs[0].primary_task_id if runs else None
        if self._task is None or state.claim_task(self._task) is None or not state.activate_task(self._task):
            raise FedloruError("Flower's server did not accept a run: remove its database, then try again")
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self._run_id, SUPERLINK_NODE_ID, self._task
        self._thread = threading.Thread(target=self._beat, name="superlink-run", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the run."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)
        self.state.finish_task(self._task or 0, SubStatus.COMPLETED, "")

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self.state.acknowledge_task_heartbeat(self._task or 0)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the connected clients, also those that have been enrolled since the last call."""
        self.link.enroll()
        return self.state.get_node_info(node_ids=list(self.state.get_nodes(self._run_id)))

    def get_node_ids(self) -> Iterable[int]:
        """Return the numbers of the connected nodes."""
        return [node.node_id for node in self.get_nodes()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages over; returns their ids, "" for a message that is not accepted."""
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute():
            objects, tree = get_all_nested_objects(message), get_object_tree(message)
            session = self.state.start_session(self._run_id)
            stored, missing = self.state.store_message_and_object_tree(
                remove_content_from_message(message), tree, session
            )
            for name in missing:
                self.state.store_object(self._run_id, session, name, objects[name].deflate())
        if stored:
            self.link.mailboxes.add(message.metadata.dst_node_id)
        return message.metadata.message_id if stored else ""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers that have arrived completely to messages, and remove both.

        The answers to one call are those to the messages of earlier calls, too: their parts arrive one by one.
        """
        for answer in self.state.get_message_res(message_ids=set(message_ids), run_id=self._run_id):
            self._arriving[answer.metadata.message_id] = answer, time.monotonic() + UPLOAD_SECONDS
        found = []
        for name, (answer, end) in list(self._arriving.items()):
            complete = answer if answer.has_error() else self._inflated(answer)
            if complete is None and time.monotonic() < end:
                continue
            del self._arriving[name]
            self.state.delete_messages({answer.metadata.reply_to_message_id})
            if complete is not None:
                found.append(complete)
        return found

    def _inflated(self, answer: Message) -> Message | None:
        """Return an answer with its content; None if a part has not arrived."""
        store, name = self.state.object_store, answer.metadata.message_id
        names = [tree.object_id for tree in iterate_object_tree(store.get_object_tree(name))]
        contents = {each: self.state.get_object(self._run_id, each) for each in names}
        if not all(contents.values()):
            return None
        present = {each: content for each, content in contents.items() if content}
        message = cast(Message, inflate_object_from_contents(name, present))
        store.delete(name)
        message.metadata.__dict__["_message_id"] = name
        return message

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Not needed: the server has its own deadlines."""
        raise NotImplementedError

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def set_run(self, run: Run) -> None:
        """Not needed: the run starts with the context."""
        raise NotImplementedError

    @property
    def run(self) -> Run:
        """The run."""
        return self.state.get_run_info(run_ids=[self._run_id])[0]


class Mailboxes:
    """The numbers of messages that wait for each node; requests for messages are answered when there is one."""

    def __init__(self) -> None:
        self._waiting: Counter[int] = Counter()

    def add(self, node: int) -> None:
        """Note that a message waits for a node."""
        self._waiting[node] += 1

    async def wait(self, node: int) -> None:
        """Return when a message waits for a node, or after ``LONG_POLL`` seconds."""
        end = time.monotonic() + LONG_POLL
        while not self._waiting[node] and time.monotonic() < end:
            await asyncio.sleep(POLL)
        self._waiting[node] = max(0, self._waiting[node] - 1)


class _Gate:
    """Serves only the routes of clients, and keeps a request for messages until there is one."""

    def __init__(self, app: ASGIApp, mailboxes: Mailboxes) -> None:
        self.app, self.mailboxes = app, mailboxes
        self.routes = {PREFIX + name for name in FLEET}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] not in self.routes:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif scope["path"] == PREFIX + "pull-messages":
            body = await _body(receive)
            with suppress(DecodeError):
                await self.mailboxes.wait(PullMessagesRequest.FromString(body).node.node_id)
            await self.app(scope, _replayed(body, receive), send)
        else:
            await self.app(scope, receive, send)


async def _body(receive: Receive) -> bytes:
    """Return the body of a request, cut at ``SMALL`` bytes."""
    body, more = b"", True
    while more and len(body) < SMALL:
        event = await receive()
        body += event.get("body", b"")
        more = bool(event.get("more_body"))
    return body[:SMALL]


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a function that receives ``body``, then what ``receive`` does."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Any:
        return pending.pop() if pending else await receive()

    return replay


class _Lifespan:
    """What Flower's app starts and stops with itself: nothing."""

    def __init__(self, config: SuperLinkLifespanConfig, factory: Any) -> None:
        self.config = config

    def startup(self) -> None:
        """Start nothing."""

    def shutdown(self) -> None:
        """Stop nothing."""


def _bound(state: LinkState, limit: int) -> None:
    """Refuse messages with more objects than ``limit`` bytes need, before their content is received."""
    store, objects = state.store_message_and_object_tree, 16 + -(-limit // CHUNK)

    def bounded(message: Message, object_tree: ObjectTree, session_id: str) -> tuple[bool, list[str]]:
        for count, _ in enumerate(iterate_object_tree(object_tree)):
            if count > objects:
                raise ValueError(f"a message has more than {objects} objects, that is, more than {limit:,} bytes")
        return store(message, object_tree, session_id)

    state.store_message_and_object_tree = bounded  # type: ignore[method-assign]


def _config(database: Path) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=0,
        insecure=True,
        certificates=None,
        superexec_auth_secret=None,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(database),
        isolation="process",
        runtime_dependency_install=False,
    )
