"""What is in front of Flower's app: only the routes of clients are served, and a request for messages waits for one.

Flower's clients ask for messages every three seconds. Keeping the request until there is a message saves the time that
a message waits, and most of the traffic of a client that waits. Flower hands a message out once, so only the last
request of a client is kept: an earlier one is of a connection that is lost, or of a process that was killed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from http.client import OK
from typing import Any

from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PullMessagesRequest
from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Receive, Scope, Send

from fedloru.flower.routes import FLEET, PREFIX

LONG_POLL, POLL = 15.0, 0.05
"""How long a request for messages is kept, and how often it is looked at, in seconds."""
STRANGER = 1.0
"""How long the request of a node is kept that has had no message yet, in seconds."""
SMALL = 2**16
"""The largest request for messages, in bytes."""


class Mailboxes:
    """The numbers of messages that wait for each node; requests for messages are answered when there is one."""

    def __init__(self) -> None:
        self._waiting: Counter[int] = Counter()
        self._last: dict[int, object] = {}

    def add(self, node: int) -> None:
        """Note that a message waits for a node."""
        self._waiting[node] += 1

    async def wait(self, node: int) -> bool:
        """Return when a message waits for a node, or after ``LONG_POLL`` seconds; False if the request is given up.

        A node that has never had a message may be anybody's invention, so nothing is kept for it.
        """
        request = self._last[node] = object()
        end = time.monotonic() + (LONG_POLL if node in self._waiting else STRANGER)
        try:
            while self._last.get(node) is request and not self._waiting[node] and time.monotonic() < end:
                await asyncio.sleep(POLL)
            return self._last.get(node) is request
        finally:
            if self._last.get(node) is request:
                del self._last[node]

    def give_up(self, node: int) -> None:
        """Give up the request of a node that waits: the client that made it is gone, and would lose a message."""
        self._last.pop(node, None)

    def take(self, node: int) -> None:
        """Note that a node has received a message."""
        if self._waiting[node] > 0:
            self._waiting[node] -= 1


class Gate:
    """Serves only the routes of clients, and keeps a request for messages until there is one."""

    def __init__(self, app: ASGIApp, mailboxes: Mailboxes) -> None:
        self.app, self.mailboxes = app, mailboxes
        self.routes = {PREFIX + name for name in FLEET}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] not in self.routes:
            await _answer(404, send)
        elif scope["path"] == PREFIX + "deactivate-node":
            body = await _body(receive)
            with suppress(DecodeError):
                self.mailboxes.give_up(DeactivateNodeRequest.FromString(body).node_id)
            await self.app(scope, _replayed(body, receive), send)
        elif scope["path"] == PREFIX + "pull-messages":
            body = await _body(receive)
            node = 0
            with suppress(DecodeError):
                node = PullMessagesRequest.FromString(body).node.node_id
                if not await self.mailboxes.wait(node):
                    await _answer(503, send)
                    return

            async def noted(event: Any) -> None:
                if event.get("status") == OK:  # it was signed by the node
                    self.mailboxes.take(node)
                await send(event)

            await self.app(scope, _replayed(body, receive), noted)
        else:
            await self.app(scope, receive, send)


async def _answer(status: int, send: Send) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


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
