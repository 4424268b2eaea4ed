"""The gate keeps a request for messages until there is one, and gives up requests of clients that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node

from fedloru.flower import gate
from fedloru.flower.gate import Gate, Mailboxes
from fedloru.flower.routes import PREFIX

NODE = 7


class Flower:
    """Flower's app: it hands one message out once."""

    def __init__(self) -> None:
        self.messages = ["a message"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        if scope["path"].endswith("pull-messages") and self.messages:
            body = self.messages.pop().encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def call(gate: Gate, route: str, request: Any) -> tuple[int, bytes]:
    """Return the status and the body of the answer."""
    events: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": request.SerializeToString(), "more_body": False}

    async def send(event: Any) -> None:
        events.append(event)

    await gate({"type": "http", "path": PREFIX + route}, receive, send)
    return events[0]["status"], events[1]["body"]


def pull(gate: Gate, node: int = NODE) -> Coroutine[Any, Any, tuple[int, bytes]]:
    return call(gate, "pull-messages", PullMessagesRequest(node=Node(node_id=node)))


@pytest.fixture
def mailboxes(monkeypatch: Any) -> Mailboxes:
    monkeypatch.setattr(gate, "LONG_POLL", 30.0)
    monkeypatch.setattr(gate, "STRANGER", 30.0)
    return Mailboxes()


def test_the_last_request_receives_the_message(mailboxes: Mailboxes) -> None:
    async def scenario() -> None:
        made = Gate(Flower(), mailboxes)
        lost = asyncio.create_task(pull(made))
        await asyncio.sleep(0)
        again = asyncio.create_task(pull(made))
        assert await lost == (503, b"")
        mailboxes.add(NODE)
        assert await again == (200, b"a message")

    asyncio.run(scenario())
    assert not mailboxes._last


def test_a_client_that_connects_again_does_not_lose_a_message_to_the_process_before_it(mailboxes: Mailboxes) -> None:
    async def scenario() -> None:
        made = Gate(Flower(), mailboxes)
        killed = asyncio.create_task(pull(made))
        other = asyncio.create_task(pull(made, NODE + 1))
        await asyncio.sleep(0)
        await call(made, "deactivate-node", DeactivateNodeRequest(node_id=NODE))
        mailboxes.add(NODE)
        assert await killed == (503, b"")
        assert await pull(made) == (200, b"a message")
        mailboxes.add(NODE + 1)
        assert await other == (200, b"")

    asyncio.run(scenario())
    assert not mailboxes._last
