"""The layout of a message: where each tensor is, and how long the message is, without encoding it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from fedloru.errors import WireError

Shapes = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]
"""The keys of tensors, with the dtypes and shapes in which they are sent."""


class Layout(NamedTuple):
    """The part of a message in the safetensors format, for given tensors.

    Args:
        places: the bytes of each tensor within the payload, from start to stop, in the order in which they are sent.
        entries: the description of the tensors in the JSON header.
        payload: the bytes of all tensors.
        fixed: the bytes of the JSON header, without the metadata and the padding.
    """

    places: Mapping[str, tuple[int, int]]
    entries: str
    payload: int
    fixed: int

    def head(self, description: str) -> bytes:
        """Return everything before the payload; ``description`` is the metadata of the message."""
        # As safetensors writes it: compact JSON in UTF-8, padded with spaces so that the payload is aligned.
        metadata = json.dumps({"fedloru": description}, separators=(",", ":"), ensure_ascii=False)
        text = f'{{"__metadata__":{metadata}{self.entries}}}'.encode()
        padded = text.ljust(_padded(len(text)))
        return len(padded).to_bytes(8, "little") + padded

    def length(self, description: str) -> int:
        """Return the length in bytes, including the payload; ``description`` is JSON in ASCII."""
        escaped = len(description) + description.count('"') + description.count("\\")
        return 8 + _padded(self.fixed + escaped) + self.payload


def layout(tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> Layout:
    """Return the layout of ``tensors``, if they are sent in ``dtypes``.

    Raises:
        WireError: the safetensors format does not have such tensors.
    """
    if sparse := [key for key, t in tensors.items() if t.layout != torch.strided]:
        raise unsupported(ValueError(f"{sparse[0]} is {tensors[sparse[0]].layout}"))
    return _layout(tuple((key, dtypes[key], tuple(t.shape)) for key, t in tensors.items()))


@lru_cache(maxsize=64)
def _layout(shapes: Shapes) -> Layout:
    written = _order({key: dtype for key, dtype, _ in shapes})
    by_key = {key: (dtype, shape) for key, dtype, shape in shapes}
    places, entries, start = {}, "", 0
    for key, name in written.items():
        dtype, shape = by_key[key]
        stop = start + prod(shape) * dtype.itemsize
        entry = {"dtype": name, "shape": list(shape), "data_offsets": [start, stop]}
        entries += f",{json.dumps(key, ensure_ascii=False)}:{json.dumps(entry, separators=(',', ':'))}"
        places[key], start = (start, stop), stop
    fixed = len(f'{{"__metadata__":{{"fedloru":""}}{entries}}}'.encode())
    return Layout(places, entries, start, fixed)


def _padded(length: int) -> int:
    return -(-length // 8) * 8


def _order(dtypes: Mapping[str, torch.dtype]) -> dict[str, str]:
    """Return the keys in the order in which safetensors writes them, with the names of their dtypes."""
    try:
        content = safetensors.torch.save({key: torch.zeros(1, dtype=dtype) for key, dtype in dtypes.items()})
    except (KeyError, ValueError, RuntimeError) as error:
        raise unsupported(error) from error
    table = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {key: entry["dtype"] for key, entry in table.items() if key != "__metadata__"}


def unsupported(error: Exception) -> WireError:
    """Return the error of a tensor that the format does not have."""
    return WireError(
        f"a tensor cannot be written in the safetensors format ({error}); send dense tensors of a real dtype"
    )
