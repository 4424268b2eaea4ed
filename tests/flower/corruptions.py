"""What a faulty or hostile client may do to its reply, with a phrase of the reason for which it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from flwr.app import Message, RecordDict

from fedloru.flower.envelope import TRAIN, Enclosed, enclosed, record
from fedloru.tree import Params
from fedloru.wire.message import decode, encode

BAD = 1
"""The client that is faulty."""

Corrupt = Callable[[Enclosed], Enclosed]


def answered(message: Message, content: RecordDict) -> Message:
    """Return ``message`` with another content."""
    return Message(content, reply_to=_request(message))


def _request(message: Message) -> Message:
    """Return a request to which ``message`` is the answer."""
    data = message.metadata
    request = Message(RecordDict(), data.src_node_id, data.message_type, group_id=data.group_id, ttl=data.ttl)
    request.metadata.__dict__["_message_id"] = data.reply_to_message_id
    request.metadata.__dict__["_src_node_id"] = data.dst_node_id
    return request


def corrupting(corrupt: Corrupt, kind: str = TRAIN) -> Callable[[int, Message], Message]:
    def change(client: int, message: Message) -> Message:
        if client != BAD or message.metadata.message_type != kind:
            return message
        sent = enclosed(message, "a client")
        return message if b'"kind":"refusal"' in sent.text else answered(message, record(corrupt(sent)))

    return change


def table(**values: Any) -> Corrupt:
    """Return a corruption that changes fields of the JSON text; None removes one."""

    def corrupt(sent: Enclosed) -> Enclosed:
        changed = json.loads(sent.text) | values
        return sent._replace(text=json.dumps({k: v for k, v in changed.items() if v is not None}).encode())

    return corrupt


def tensors(change: Callable[[dict[str, Params]], dict[str, Params]]) -> Corrupt:
    """Return a corruption that changes the tensors of the up message."""

    def corrupt(sent: Enclosed) -> Enclosed:
        header, sections = decode(sent.tensors)
        return sent._replace(tensors=encode(header, change(sections), "exact"))

    return corrupt


def header(**values: Any) -> Corrupt:
    """Return a corruption that changes the header of the up message."""

    def corrupt(sent: Enclosed) -> Enclosed:
        before, sections = decode(sent.tensors)
        return sent._replace(tensors=encode(before._replace(**values), sections, "exact"))

    return corrupt


def numbers(**values: float) -> Corrupt:
    def corrupt(sent: Enclosed) -> Enclosed:
        return header(numbers=decode(sent.tensors)[0].numbers | values)(sent)

    return corrupt


def each(function: Callable[[torch.Tensor], torch.Tensor]) -> Corrupt:
    return tensors(lambda parts: {name: {k: function(t) for k, t in part.items()} for name, part in parts.items()})


def spoiled(t: torch.Tensor) -> torch.Tensor:
    changed = t.clone()
    changed.view(-1)[0] = float("nan")
    return changed


def without_one(sections: dict[str, Params]) -> dict[str, Params]:
    return sections | {"shared": dict(list(sections["shared"].items())[1:])}


FAULTS: dict[str, tuple[Corrupt, str]] = {
    "NaN": (each(spoiled), "not finite"),
    "infinite": (each(lambda t: t + float("inf")), "not finite"),
    "shape": (each(lambda t: torch.zeros(*t.shape, 2)), "is expected"),
    "empty": (each(lambda t: t[:0]), "is expected"),
    "dtype": (each(torch.Tensor.double), "is expected"),
    "integers": (each(torch.Tensor.int), "is expected"),
    "missing tensor": (tensors(without_one), "lacks the tensors"),
    "no tensors": (tensors(lambda sections: {}), "lacks the tensors"),
    "additional tensor": (tensors(lambda s: s | {"shared": s["shared"] | {"x": torch.ones(2)}}), "unknown tensors"),
    "additional section": (tensors(lambda s: s | {"more": {"x": torch.ones(2)}}), "unknown sections"),
    "method": (header(method="fedavg"), "has method"),
    "run": (header(run="00" * 16), "has run"),
    "round": (header(round=9), "has round"),
    "client": (header(client=0), "has client"),
    "down message": (header(kind="down", client=-1, numbers={}), "has kind"),
    "a billion examples": (numbers(weight=1e9), "examples, but the client stated"),
    "no examples": (numbers(weight=0.0), "has the weight"),
    "negative examples": (numbers(weight=-5.0), "has the weight"),
    "unknown number": (numbers(more=1.0), "has the numbers"),
    "too large an update": (each(lambda t: t * 1e5), "federation.max_norm"),
    "values that overflow in a sum": (each(lambda t: torch.full_like(t, 3e38)), "a million times"),
    "truncated": (lambda sent: sent._replace(tensors=sent.tensors[:-1]), "truncated, damaged"),
    "half": (lambda sent: sent._replace(tensors=sent.tensors[: len(sent.tensors) // 2]), "truncated, damaged"),
    "empty message": (lambda sent: sent._replace(tensors=b""), "truncated, damaged"),
    "random bytes": (lambda sent: sent._replace(tensors=bytes(range(256)) * 8), "truncated, damaged"),
    "giant": (lambda sent: sent._replace(tensors=bytes(10**6)), "expected at most"),
    "no JSON": (lambda sent: sent._replace(text=b"hello"), "is not a valid Report"),
    "no text": (lambda sent: sent._replace(text=b""), "is not a valid Report"),
    "bytes as text": (lambda sent: sent._replace(text=b"\xff\xfe\x00"), "is not a valid Report"),
    "a list": (lambda sent: sent._replace(text=b"[]"), "is not a valid Report"),
    "nested": (lambda sent: sent._replace(text=b"[" * 10**5), "is not a valid Report"),
    "giant text": (lambda sent: sent._replace(text=b" " * 5 * 2**20), "bytes of text"),
    "a missing field": (table(held=None), "held"),
    "an unknown field": (table(more=1), "more"),
    "another type": (table(held="1"), "held"),
    "a huge number": (table(held=10**400), "held"),
    "a negative number": (table(held=-1), "held"),
    "endless": (table(seconds=1e300), "seconds"),
    "another kind": (table(kind="greeting"), "kind"),
    "another request": (table(answers="00" * 16), "answers the request"),
}
