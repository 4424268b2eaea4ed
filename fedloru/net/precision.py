"""Local training in bf16: products under autocast, everything else in float32.

Parameters, optimizer state, messages and the server keep their dtype. The forward pass runs under ``torch.autocast``,
the losses are computed without it, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fedloru.lowrank.layers import LowRankConv2d, LowRankLinear, autocast_dtype
from fedloru.net.loss import Batch
from fedloru.net.record import Net
from fedloru.recipe import Precision
from fedloru.tree import Params

_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, LowRankLinear, LowRankConv2d)
"""The layers that use their weight and bias in nothing but a product, which autocast computes in bf16."""

_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""The instructions for products in bf16, of x86 and of ARM."""


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context of the forward pass of a local step."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def lowered(net: Net, base: Params, precision: Precision) -> Params:
    """Return ``base`` with bf16 copies of the frozen weights that autocast would otherwise round in every step.

    The results are bitwise the same. Weights that other layers use too, such as a tied embedding, are kept.
    """
    if precision == "full":
        return base
    own = {id(p) for layer in net.model.modules() if type(layer) in _PRODUCTS for p in _weights(layer)}
    others = {
        id(p) for layer in net.model.modules() if type(layer) not in _PRODUCTS for p in layer.parameters(recurse=False)
    }
    keys = {key for key, p in net.model.named_parameters() if id(p) in own - others}
    return {
        key: value.to(torch.bfloat16) if key in keys and value.dtype == torch.float32 else value
        for key, value in base.items()
    }


def _weights(layer: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in layer._parameters.items() if name in ("weight", "bias") and p is not None]


def in_float32(losses: Callable[[Any, Batch], Tensor], outputs: Any, batch: Batch) -> Tensor:
    """Return ``losses(outputs, batch)``; under autocast, without it, on outputs converted to float32."""
    device = next(iter(batch.values())).device
    if autocast_dtype(device) is None:
        return losses(outputs, batch)
    wide = tree_map(lambda t: t.float() if isinstance(t, Tensor) and t.dtype == torch.bfloat16 else t, outputs)
    with torch.autocast(device.type, enabled=False):
        return losses(wide, batch)


def precision_problem(precision: Precision, device: torch.device, params: Params) -> str | None:
    """Return why local training cannot use ``precision``, or None if it can."""
    if precision == "full":
        return None
    if device.type not in ("cpu", "cuda"):
        return (
            f"precision is 'bf16', but the device is {device.type!r}: use 'cpu' or 'cuda', or set precision to 'full'"
        )
    wide = [key for key, value in params.items() if value.dtype == torch.float64]
    if wide:
        return (
            f"precision is 'bf16', but {wide[0]} is float64, which autocast does not round: convert the model with "
            "model.float(), or set precision to 'full'"
        )
    return None


def emulates_bf16(device: torch.device) -> bool:
    """Return whether ``device`` is known to have no instructions for products in bf16."""
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch < 2.11 has none
    return bool(found) and not any(found.get(name) for name in _CPU_BF16)
