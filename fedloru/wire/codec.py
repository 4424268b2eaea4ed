"""How values are written on the wire: unchanged, or cast to a narrower floating type.

A codec only ever narrows: floating tensors wider than its type are cast to it, to nearest even; narrower ones,
integers and booleans stay. Increments always travel ``exact``, so that bases stay equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedloru.errors import WireError
from fedloru.tree import Params

CODECS: dict[str, torch.dtype | None] = {
    "exact": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""The name of every codec, and the floating type that it narrows to."""


def wire_dtype(codec: str, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which values of ``dtype`` travel.

    Raises:
        WireError: there is no such codec.
    """
    if codec not in CODECS:
        raise WireError(f"there is no codec {codec!r}; choose one of {', '.join(CODECS)}")
    target = CODECS[codec]
    if target is None or not dtype.is_floating_point or dtype.itemsize <= target.itemsize:
        return dtype
    return target


def width(codec: str, dtype: torch.dtype) -> int:
    """Return how many bytes one value of ``dtype`` takes on the wire."""
    return wire_dtype(codec, dtype).itemsize


def pack(tensors: Mapping[str, Tensor], codec: str) -> Params:
    """Return ``tensors`` in the types in which they travel, outside any autograd graph.

    Raises:
        WireError: there is no such codec, or a finite value is too large for it.
    """
    return {key: _narrow(key, t.detach(), codec) for key, t in tensors.items()}


def payload(sections: Mapping[str, Mapping[str, Tensor]], codec: str) -> int:
    """Return how many bytes the tensors of a message take, without its envelope."""
    return sum(t.numel() * width(codec, t.dtype) for section in sections.values() for t in section.values())


def _narrow(key: str, t: Tensor, codec: str) -> Tensor:
    packed = t.to(wire_dtype(codec, t.dtype))
    if packed.dtype != t.dtype and _overflowed(packed, t):
        largest = float(t[t.isfinite()].abs().max())
        wider = "bf16, which has the range of float32" if codec == "fp16" else "exact"
        raise WireError(
            f"{key}: the value {largest:g} does not fit into {packed.dtype}, whose largest is "
            f"{torch.finfo(packed.dtype).max:g}; use the codec {wider}"
        )
    return packed


def _overflowed(packed: Tensor, t: Tensor) -> bool:
    if not packed.numel() or bool(torch.stack(torch.aminmax(packed)).isfinite().all()):
        return False
    return bool((packed.isinf() & t.isfinite()).any())
