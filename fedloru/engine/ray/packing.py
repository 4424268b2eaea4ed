"""Tensors as NumPy arrays, which Ray keeps in shared memory and sends without pickling them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Packed(NamedTuple):
    """A tensor as its bytes, since NumPy has no bfloat16; ``cpu`` is whether it was on the CPU."""

    values: np.ndarray[Any, Any]
    dtype: torch.dtype
    shape: tuple[int, ...]
    cpu: bool


def pack(value: Any) -> Any:
    """Return ``value`` with every tensor in its dicts, lists and tuples as a ``Packed``."""
    return _mapped(value, Tensor, _pack, {})


def unpack(value: Any, device: str | torch.device, *, copy: bool = True) -> Any:
    """Return what was packed, with the tensors that were not on the CPU on ``device``.

    Without ``copy``, tensors on the CPU use the shared memory of Ray, which must not be written to.
    """
    return _mapped(value, Packed, lambda packed: _unpack(packed, device, copy), {})


def _mapped(value: Any, leaf: type[Any], function: Callable[[Any], Any], memo: dict[int, Any]) -> Any:
    """Return ``value`` with ``function`` applied to every ``leaf``, once for each object."""
    if isinstance(value, leaf):
        if id(value) not in memo:
            memo[id(value)] = function(value)
        return memo[id(value)]
    if isinstance(value, dict):
        return {key: _mapped(item, leaf, function, memo) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_mapped(item, leaf, function, memo) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _pack(tensor: Tensor) -> Packed:
    held = tensor.detach().cpu().contiguous()
    return Packed(held.flatten().view(torch.uint8).numpy(), held.dtype, tuple(held.shape), tensor.device.type == "cpu")


def _unpack(packed: Packed, device: str | torch.device, copy: bool) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        flat = torch.from_numpy(packed.values.copy() if copy and packed.cpu else packed.values)
    # An empty array has no stride, with which no view can be taken.
    tensor = flat.view(packed.dtype).view(packed.shape) if len(flat) else torch.empty(packed.shape, dtype=packed.dtype)
    return tensor if packed.cpu else tensor.to(device)
