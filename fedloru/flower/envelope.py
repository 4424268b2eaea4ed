"""Flower messages: one JSON object, and at most one array of bytes.

All tensors travel in one array, because Flower sends every array as two or more objects, each with its own request:
200 small arrays need six times as long as one array with the same bytes. The array has a serialization type that
Flower does not know, so nothing between sender and receiver interprets it.
"""

from __future__ import annotations

from typing import NamedTuple

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedloru.errors import WireError

BYTES = "fedloru.bytes"
"""The serialization type of the array."""
TEXT, TENSORS = "text", "tensors"
HELLO, TRAIN, EVALUATE = "query.hello", "train", "evaluate"
"""The types of Flower messages."""


class Enclosed(NamedTuple):
    """The content of a Flower message: JSON, and the bytes of tensors."""

    text: bytes
    tensors: bytes = b""


def record(enclosed: Enclosed) -> RecordDict:
    """Return the content as Flower sends it."""
    content = RecordDict({TEXT: ConfigRecord({TEXT: enclosed.text})})
    if enclosed.tensors:
        array = Array("uint8", (len(enclosed.tensors),), BYTES, enclosed.tensors)
        content[TENSORS] = ArrayRecord({TENSORS: array})
    return content


def enclosed(message: Message, sender: str) -> Enclosed:
    """Return the content of a message that was received from ``sender``.

    Raises:
        WireError: the message has other records than ``record`` makes.
    """
    content = message.content
    if set(content) not in ({TEXT}, {TEXT, TENSORS}):
        raise WireError(f"a message from {sender} has the records {sorted(content)[:4]}; expected {TEXT} and {TENSORS}")
    text = content[TEXT].get(TEXT) if isinstance(content[TEXT], ConfigRecord) else None
    if not isinstance(text, bytes):
        raise WireError(f"a message from {sender} has no text; use the same version of fedloru on server and clients")
    if TENSORS not in content:
        return Enclosed(text)
    arrays = content[TENSORS]
    array = arrays.get(TENSORS) if isinstance(arrays, ArrayRecord) else None
    if not isinstance(array, Array) or array.stype != BYTES or len(arrays) != 1:
        raise WireError(f"a message from {sender} has other arrays than one of bytes")
    return Enclosed(text, array.data)
