"""Flower's SuperLink in this process, for clients only.

It listens on loopback without TLS; ``proxy``, nginx or Caddy is in front of it. Its routes for operators, which start
runs and register clients without any authentication, are not served at all, not even on loopback: the server enrolls
clients and sends messages by calling Flower in this process. No code is ever sent to clients, and none is received.

The names and numbers of nodes are kept in a database file; messages are not worth keeping, since a run that was
interrupted asks again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any, Self, cast

import uvicorn
from flwr.app import Message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.inflatable.inflatable_object import (
    iterate_object_tree,
)
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app

from fedloru.errors import FedloruError
from fedloru.flower.gate import Gate, Mailboxes
from fedloru.flower.keys import line_to_bytes
from fedloru.flower.roster import Client, Roster
from fedloru.flower.routes import CHUNK

DATABASE = "superlink.db"
SMALL, OBJECTS = 2**20, 16
"""The largest message before a run starts, in bytes, and the number of objects that a small message has at most."""
START_SECONDS = STOP_SECONDS = 15.0

logging.getLogger("flwr").setLevel(logging.CRITICAL)  # it logs as errors what clients do when they connect again
for name, value in {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}.items():
    os.environ.setdefault(name, value)


class SuperLink:
    """Flower's server for the clients in ``roster``, on a port of 127.0.0.1; a context manager.

    Args:
        roster: the enrolled clients.
        folder: where the database is.
        port: the port to listen on; 0: any free one.
    """

    def __init__(self, roster: Roster, folder: Path, port: int = 0) -> None:
        self.roster, self.port = roster, port
        self.max_message = SMALL
        """The largest message from a client that is accepted, in bytes; a run sets it to what its model needs."""
        self._app = create_app(_config(folder / DATABASE), cast(Any, _Lifespan))
        self.state: LinkState = self._app.state.linkstate_factory.state()
        self._app.state.linkstate_factory.state = lambda: self.state
        self._bound()
        self.mailboxes = Mailboxes()
        self._nodes: dict[bytes, int] = {}
        self._enrolled: list[Client] = []
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
            Gate(self._app, self.mailboxes),
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
        clients = self.roster.clients
        if clients is self._enrolled:  # the roster returns another list if it has changed
            return
        self._enrolled = clients
        for index, client in enumerate(clients):
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

    def _bound(self) -> None:
        """Refuse messages with more objects than ``max_message`` bytes need, before their content is received."""
        store = self.state.store_message_and_object_tree

        def bounded(message: Message, object_tree: ObjectTree, session_id: str) -> tuple[bool, list[str]]:
            most = OBJECTS + -(-self.max_message // CHUNK)
            for count, _ in enumerate(iterate_object_tree(object_tree)):
                if count > most:
                    raise ValueError(f"a message has more than {most} objects, for {self.max_message:,} bytes")
            return store(message, object_tree, session_id)

        self.state.store_message_and_object_tree = bounded  # type: ignore[method-assign]

    def who(self, node: NodeInfo) -> int | None:
        """Return the index of the client of a node; None if it is not enrolled."""
        return self._nodes.get(node.public_key)


class _Lifespan:
    """What Flower's app starts and stops with itself: nothing."""

    def __init__(self, config: SuperLinkLifespanConfig, factory: Any) -> None:
        self.config = config

    def startup(self) -> None:
        """Start nothing."""

    def shutdown(self) -> None:
        """Stop nothing."""


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
