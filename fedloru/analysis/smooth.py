"""Replacements for functions whose second derivatives are wrong or missing in torch.

A Hessian-vector product is the forward-mode derivative of a gradient. For layer and instance normalization, torch
silently returns a wrong one, off by a few percent (PyTorch issues 196699 and 196700, both open as of torch 2.13). For
group normalization, SiLU and the fused attention kernels it is not implemented. Within ``differentiable`` these are
computed from elementary functions instead; ``curvature`` checks every model against two backward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def differentiable() -> Iterator[None]:
    """Run the forward pass with functions that are twice differentiable, in forward mode too."""
    with sdpa_kernel(SDPBackend.MATH), _Elementary():
        yield


class _Elementary(TorchFunctionMode):
    """Replaces torch functions by those in ``REPLACEMENTS``; any torch function mode disables attention's fast path."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return REPLACEMENTS.get(func, func)(*args, **(kwargs or {}))


def layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    """Normalize ``x`` over its last axes, those of ``shape``."""
    return _affine(_normalized(x, x.ndim - len(shape), eps), weight, bias)


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    """Normalize each group of channels of ``x`` (b, c, …)."""
    normalized = _normalized(x.unflatten(1, (groups, -1)), 2, eps).flatten(1, 2)
    return _affine(normalized, *(None if t is None else t.view(-1, *[1] * (x.ndim - 2)) for t in (weight, bias)))


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel of ``x`` (b, c, …); with running statistics torch is correct, so its function is used."""
    if use_input_stats:
        return group_norm(x, x.shape[1], weight, bias, eps)
    return F.instance_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)


def silu(x: Tensor, inplace: bool = False) -> Tensor:
    """Return x·sigmoid(x)."""
    return x * torch.sigmoid(x)


REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.layer_norm: layer_norm,
    F.group_norm: group_norm,
    F.instance_norm: instance_norm,
    F.silu: silu,
}


def _normalized(x: Tensor, first_axis: int, eps: float) -> Tensor:
    axes = list(range(first_axis, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
