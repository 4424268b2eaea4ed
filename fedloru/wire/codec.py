"""How values are encoded: unchanged, rounded to a narrower floating-point type, or as integer codes.

A codec never widens: it rounds floating-point tensors that are wider than its type, ties to even, and leaves narrower
ones, integers and booleans unchanged. ``int8`` and ``int4`` send matrices as codes of 8 or 4 bits, with a scale for
each row or column (``fedloru.wire.grid``), and everything else as ``fp32`` does. ``int4`` has 4 bits for factors and
increments, and 8 for other matrices, since dense weights do not survive 4 bits.

Increments are always sent without loss, so that bases stay equal bit for bit. With integer codes, they are rounded
before they are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedloru.errors import WireError, quoted
from fedloru.settings import Table, calling
from fedloru.tree import Params


def nearest(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``values`` rounded to ``dtype``, ties to even."""
    return values.to(dtype)


class Codec(NamedTuple):
    """The floating-point type that values are narrowed to (None: never), and how they are rounded to it.

    ``narrow`` maps a tensor and the type to a tensor of the same shape and of that type; the receiver casts it back. If
    ``bits`` is 4 or 8, factors are sent as codes of so many bits, and other matrices as codes of 8.
    """

    dtype: torch.dtype | None
    narrow: Callable[[Tensor, torch.dtype], Tensor] = nearest
    bits: Literal[0, 4, 8] = 0


CODECS: Table[Codec] = Table(
    "codec",
    {
        "exact": Codec(None),
        "fp32": Codec(torch.float32),
        "bf16": Codec(torch.bfloat16),
        "fp16": Codec(torch.float16),
        "int8": Codec(torch.float32, bits=8),
        "int4": Codec(torch.float32, bits=4),
    },
    WireError,
)
"""The codecs by name; a ``python:`` name refers to a function without arguments that returns a ``Codec``."""


@cache
def find(name: str) -> Codec:
    """Return the codec called ``name``.

    Raises:
        WireError: there is no such codec, or its codes have other bits than 4 or 8.
    """
    found = CODECS.find(name)
    if not isinstance(found, Codec):
        with calling(name, WireError):
            found = found()
    if not isinstance(found, Codec):
        raise WireError(f"{name} returned {type(found).__name__}, not a fedloru.wire.Codec; return one")
    if found.bits not in (0, 4, 8):
        raise WireError(f"{name} returned a codec with bits = {quoted(found.bits)}; expected 4, 8, or 0 for no codes")
    return found


def wire_dtype(codec: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which values of ``dtype`` are sent.

    Raises:
        WireError: there is no such codec.
    """
    target = find(codec).dtype
    if target is None or not dtype.is_floating_point or dtype.itemsize <= target.itemsize:
        return dtype
    return target


def width(codec: str, dtype: torch.dtype) -> int:
    """Return the bytes that one value of ``dtype`` takes on the wire."""
    return wire_dtype(codec, dtype).itemsize


def pack(tensors: Mapping[str, Tensor], codec: str) -> Params:
    """Return ``tensors`` in the dtypes in which they are sent, detached from any autograd graph.

    Raises:
        WireError: there is no such codec, or a finite value is too large for it.
    """
    return {key: _narrow(key, t.detach(), codec) for key, t in tensors.items()}


def payload(sections: Mapping[str, Mapping[str, Tensor]], codec: str) -> int:
    """Return the bytes of the tensors of a message, without its envelope; codes and scales count as they are."""
    return sum(t.numel() * width(codec, t.dtype) for section in sections.values() for t in section.values())


def _narrow(key: str, t: Tensor, codec: str) -> Tensor:
    target = wire_dtype(codec, t.dtype)
    if target == t.dtype:
        return t
    packed = find(codec).narrow(t, target)
    if overflowed(packed, [t]):
        largest = float(t[t.isfinite()].abs().max())
        wider = "bf16, which has the range of float32" if codec == "fp16" else "exact"
        raise WireError(
            f"{key}: the value {largest:g} does not fit into {packed.dtype}, whose largest value is "
            f"{torch.finfo(packed.dtype).max:g}; use the codec {wider}"
        )
    return packed


def overflowed(packed: Tensor, values: Sequence[Tensor]) -> bool:
    """Return whether a finite value of ``values`` became infinite in ``packed``, which has all of them in order."""
    if not packed.numel() or bool(torch.stack(torch.aminmax(packed)).isfinite().all()):
        return False
    finite = torch.stack([value.isfinite().flatten() for value in values]).cpu()
    return bool((packed.isinf().cpu().view(finite.shape) & finite).any())
