"""Messages with the same tensors, such as the replies of a chunk of clients, encoded together.

The bytes are those of ``message.encode``, but all messages are written at once: one conversion and one copy for each
tensor of all clients. Only the hash, which protects a message between two processes, waits until someone asks for the
bytes. A codec with its own way of rounding may draw random numbers, so its messages are encoded one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.tree import Params
from fedloru.wire.codec import find, nearest, overflowed, pack, wire_dtype
from fedloru.wire.header import Header
from fedloru.wire.layout import Layout, layout
from fedloru.wire.message import START, decode, described, encode, flat, framed, letters

Sections = Mapping[str, Mapping[str, Tensor]]
ALIGNMENT = 64
"""The alignment in bytes of tensors that torch allocates; the last bits of products of factors depend on it."""


class Arrived(NamedTuple):
    """A message as its receiver has it: its length in bytes, and its tensors by section and key."""

    length: int
    tensors: dict[str, Params]


ROOM = 4 * 2**20
"""The bytes of the messages that are encoded at once, so that they are still in the cache when they are decoded."""


class Batch:
    """Messages whose tensors have the same keys, shapes and dtypes, as rows of one array of bytes.

    Raises:
        WireError: a header field is invalid, or a value does not fit into the codec.
    """

    @torch.no_grad()
    def __init__(self, headers: Sequence[Header], tensors: Sequence[Params], codec: str) -> None:
        self._tensors, first = tensors, tensors[0]
        self._dtypes = {key: wire_dtype(codec, t.dtype) for key, t in first.items()}
        self.layout: Layout = layout(first, self._dtypes)
        narrowed = letters(first, self._dtypes)
        self._descriptions = [described(header, narrowed) for header in headers]
        pitch = -(-self.layout.payload // 8) * 8  # rows start where values of any dtype may start
        self._bytes = torch.empty(len(tensors), pitch, dtype=torch.uint8)
        for key in first:
            self._write(key, codec)

    @property
    def lengths(self) -> list[int]:
        """The length of each message in bytes."""
        return [START + self.layout.length(description) for description in self._descriptions]

    def message(self, index: int) -> bytes:
        """Return the bytes of one message."""
        payload = self._bytes[index, : self.layout.payload].numpy().tobytes()
        return framed(self.layout.head(self._descriptions[index]) + payload)

    def decoded(self) -> list[dict[str, Params]]:
        """Return the tensors of each message by section, aligned, in their original dtypes and on their devices."""
        columns = {key: self._read(key) for key in self._tensors[0]}
        names = {key: key.partition("/")[::2] for key in columns}
        messages: list[dict[str, Params]] = [{section: {} for section, _ in names.values()} for _ in self._tensors]
        for key, (section, name) in names.items():
            for message, tensor in zip(messages, columns[key], strict=True):
                message[section][name] = tensor
        return messages

    def _place(self, key: str) -> Tensor:
        """Return the bytes of one tensor of all messages, as (P, n) values."""
        start, stop = self.layout.places[key]
        return self._bytes[:, start:stop].view(self._dtypes[key])

    def _write(self, key: str, codec: str) -> None:
        place, values = self._place(key), [tensors[key] for tensors in self._tensors]
        if values[0].device.type == "cpu":
            torch.stack(values, out=place.unflatten(1, values[0].shape) if values[0].dim() else place[:, 0])
        else:
            place.copy_(torch.stack(values).flatten(1))  # one transfer
        if place.dtype != values[0].dtype and overflowed(place, values):
            for value in values:
                pack({key: value}, codec)  # raises the error of the first that does not fit

    def _read(self, key: str) -> tuple[Tensor, ...]:
        place, like = self._place(key), self._tensors[0][key]
        width = -(-place.shape[1] * like.dtype.itemsize // ALIGNMENT) * ALIGNMENT // like.dtype.itemsize
        padded = torch.empty(len(place), width, dtype=like.dtype)
        padded[:, : place.shape[1]].copy_(place)
        values = padded.to(like.device)[:, : place.shape[1]]
        return (values.unflatten(1, like.shape) if like.dim() else values[:, 0]).unbind()


def sent(headers: Sequence[Header], messages: Sequence[Sections], codec: str) -> Iterator[Arrived]:
    """Yield the messages as their receivers have them, in order.

    Raises:
        WireError: a header field is invalid, or a tensor cannot be encoded with this codec.
    """
    if find(codec).narrow is not nearest:
        yield from map(_alone, headers, messages, [codec] * len(headers))
        return
    pairs = zip(headers, [flat(sections) for sections in messages], strict=True)
    for _, alike in groupby(pairs, key=lambda pair: [(key, t.shape, t.dtype, t.device) for key, t in pair[1].items()]):
        group = list(alike)
        size = max(1, ROOM // max(1, tree.nbytes(group[0][1])))
        for start in range(0, len(group), size):
            part = group[start : start + size]
            batch = Batch([header for header, _ in part], [tensors for _, tensors in part], codec)
            yield from map(Arrived, batch.lengths, batch.decoded())


def _alone(header: Header, sections: Sections, codec: str) -> Arrived:
    data = encode(header, sections, codec)
    return Arrived(len(data), decode(data)[1])
