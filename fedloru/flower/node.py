"""The connection of a client to the server: Flower's protocol for nodes, without Flower's processes.

A client pulls messages from the server, answers them, and sends heartbeats. It opens no port, and never requests code.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedloru.errors import CredentialError, FedloruError, UnreachableError, WireError
from fedloru.flower.routes import CHUNK

BEAT = 10.0
"""The number of seconds between heartbeats; after two missing ones, the server considers a client gone."""
STOP_SECONDS = 5.0
"""How long to wait for the thread that sends heartbeats."""
SESSIONS = 3
"""How often the transfer of a message is tried again before the client connects again."""

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class Place(NamedTuple):
    """A server, and the credentials for it."""

    host: str
    port: int
    ca: Path
    key: ec.EllipticCurvePrivateKey

    @property
    def address(self) -> str:
        """The address as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Connection:
    """A connection to the server at ``place``; a context manager.

    ``earlier`` is the node id of this client's last connection, 0 if there was none: if the client was killed, the
    server may still consider it connected.
    """

    def __init__(self, place: Place, earlier: int = 0) -> None:
        self.place, self.id, self._earlier = place, 0, earlier
        self.gone = threading.Event()
        self._stop = threading.Event()
        signer = NodeAuthHttpInterceptor(place.key, place.key.public_key())
        self._client = FleetHttpClient.from_server_address(
            place.address, False, str(place.ca), [RuntimeVersionHttpInterceptor(component_name="SuperNode"), signer]
        )

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            UnreachableError: there is no connection, or the client is still counted as connected.
            CredentialError: the server does not know the key.
            FedloruError: it refuses the client for another reason, such as its version.
        """
        if self._earlier:
            with suppress(httpx.HTTPError, ValueError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._earlier))
        key = public_key_to_bytes(self.place.key.public_key())
        request = ActivateNodeRequest(public_key=key, heartbeat_interval=BEAT)
        try:
            self.id = self._call(lambda: self._client.ActivateNode(request)).node_id
        except BaseException:
            self._client.close()
            raise
        self._thread = threading.Thread(target=self._beat, name="heartbeats", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)
        with suppress(httpx.HTTPError, ValueError):
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.id))
        self._client.close()

    @property
    def _node(self) -> Node:
        return Node(node_id=self.id)

    def receive(self, limit: int) -> Message | None:
        """Return the next message of at most ``limit`` bytes; None if there is none for some seconds.

        Raises:
            UnreachableError: the connection is lost.
            WireError: the message is larger.
        """
        try:
            return self._receive(limit)
        except OutdatedError:
            return None

    def _receive(self, limit: int) -> Message | None:
        # Not again: Flower hands a message out once, so one that was lost arrives only after a new connection.
        pulled = self._call(lambda: self._client.PullMessages(PullMessagesRequest(node=self._node)), tries=0)
        if not pulled.messages_list:
            return None
        message, tree = message_from_proto(pulled.messages_list[0]), pulled.message_object_trees[0]
        run = message.metadata.run_id
        names = [each.object_id for each in iterate_object_tree(tree)]
        if len(names) > 16 + -(-limit // CHUNK):
            raise WireError(f"a message from the server has {len(names)} parts, which is more than {limit:,} bytes")
        contents = {name: self._pull(run, name) for name in names}
        confirmation = ConfirmMessageReceivedRequest(node=self._node, run_id=run, message_object_id=tree.object_id)
        self._call(lambda: self._client.ConfirmMessageReceived(confirmation))
        whole = inflate_object_from_contents(tree.object_id, contents)
        if not isinstance(whole, Message):
            raise WireError("the server sent something other than a message")
        whole.metadata.__dict__["_message_id"] = tree.object_id
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, self.id, 1
        return whole

    def send(self, message: Message, seconds: float) -> None:
        """Send an answer that took ``seconds``; if its question is out of date, it is dropped.

        Raises:
            UnreachableError: the connection is lost.
        """
        with suppress(OutdatedError):
            self._send(message, seconds)

    def _send(self, message: Message, seconds: float) -> None:
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute():
            tree, objects = get_object_tree(message), get_all_nested_objects(message)
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(message))],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
            pushed = self._call(lambda: self._client.PushMessages(request))
            for name in pushed.objects_to_push:
                part = PushObjectRequest(
                    node=self._node,
                    run_id=message.metadata.run_id,
                    object_id=name,
                    object_content=objects[name].deflate(),
                    session_id=pushed.session_id,
                )
                self._call(lambda part=part: self._client.PushObject(part))  # type: ignore[misc]

    def _pull(self, run: int, name: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run, object_id=name)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            answer = self._call(lambda: self._client.PullObject(request))
            if answer.object_available:
                return bytes(answer.object_content)
            if not answer.object_found:
                break
            time.sleep(0.2)
        raise UnreachableError("a part of a message is not available; the server sends the message again")

    def _beat(self) -> None:
        """Send heartbeats until the connection is closed; set ``gone`` if the server no longer knows the client."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=BEAT)
        while not self._stop.wait(BEAT * 0.8):
            try:
                if not self._client.SendNodeHeartbeat(request).success:
                    self.gone.set()
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.UNAUTHORIZED:
                    self.gone.set()
            except (httpx.HTTPError, ValueError):
                continue

    def _call(self, request: Callable[[], _Answer], tries: int = SESSIONS) -> _Answer:
        """Return the answer of the server; if it is not reachable, try ``tries`` times again, for a few seconds."""
        for attempt in range(tries + 1):
            try:
                return request()
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status not in (502, 503, 504) or attempt == tries:
                    raise _refused(error.response, self.place) from error
            except (httpx.TransportError, ValueError) as error:
                if attempt == tries:
                    raise UnreachableError(
                        f"the connection to {self.place.address} is lost ({str(error) or type(error).__name__})"
                    ) from error
            if self._stop.wait(2.0**attempt):
                break
        raise UnreachableError(f"the connection to {self.place.address} was closed")


def _refused(response: httpx.Response, place: Place) -> FedloruError:
    """Return the error for a request that the server has refused."""
    problem = FlowerError.from_json(response.text)
    reason = f"{problem.message} (Flower code {problem.code})" if problem else f"status {response.status_code}"
    where = f"the server at {place.address}"
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return CredentialError(
            f"{where} does not know the key of this client: ask its operator to enroll the public key with "
            "`fedloru enroll KEY.pub --name NAME`"
        )
    if problem is not None and problem.code == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED:
        return OutdatedError(f"{where} has started again since it sent a message, which it will send again")
    if problem is not None and problem.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return NotActivatedError(
            f"{where} does not accept this client: its key is not enrolled (`fedloru enroll KEY.pub --name NAME` on "
            "the server), or another client with the same key is connected"
        )
    if response.status_code in (404, 405):
        return FedloruError(f"{where} is not a fedloru server, or runs another version of Flower ({reason})")
    if response.status_code >= 500:
        return UnreachableError(f"{where} cannot answer at the moment ({reason})")
    return FedloruError(f"{where} refuses this client: {reason}")


class OutdatedError(FedloruError):
    """A message belongs to an earlier process of the server."""


class NotActivatedError(CredentialError):
    """The server does not know the key, or has a connection with it already."""
