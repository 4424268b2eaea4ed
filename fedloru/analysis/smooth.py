"""The forward pass in functions whose second derivatives torch gets right.

A Hessian-vector product is the forward derivative of a gradient. For layer and instance normalisation torch's is wrong
without a word, by some per cent (pytorch issues 196699 and 196700, both open with torch 2.13), for group
normalisation and SiLU there is none, nor is there for the fast kernels of attention. Within ``differentiable`` these
are computed from elementary functions instead; ``curvature`` checks every model against the other way round.
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
    """Compute what is called inside in functions that can be differentiated twice, also forward."""
    with sdpa_kernel(SDPBackend.MATH), _Elementary():
        yield


class _Elementary(TorchFunctionMode):
    """Puts the functions of ``INSTEAD`` in the place of torch's; in any such mode, attention avoids its fast path."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return INSTEAD.get(func, func)(*args, **(kwargs or {}))


def layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    """Normalise the last axes of ``x``, those of ``shape``."""
    return _affine(_normalised(x, x.ndim - len(shape), eps), weight, bias)


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    """Normalise every group of channels of ``x`` (b, c, …)."""
    normal = _normalised(x.unflatten(1, (groups, -1)), 2, eps).flatten(1, 2)
    return _affine(normal, *(None if t is None else t.view(-1, *[1] * (x.ndim - 2)) for t in (weight, bias)))


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
    """Normalise every channel of ``x`` (b, c, …), or by running statistics, which torch gets right."""
    if use_input_stats:
        return group_norm(x, x.shape[1], weight, bias, eps)
    return F.instance_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)


def silu(x: Tensor, inplace: bool = False) -> Tensor:
    """Return x·sigmoid(x)."""
    return x * torch.sigmoid(x)


INSTEAD: dict[Callable[..., Any], Callable[..., Any]] = {
    F.layer_norm: layer_norm,
    F.group_norm: group_norm,
    F.instance_norm: instance_norm,
    F.silu: silu,
}


def _normalised(x: Tensor, first: int, eps: float) -> Tensor:
    axes = list(range(first, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
