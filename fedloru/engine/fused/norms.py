"""Leaves of normalization layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.engine.fused import products
from fedloru.engine.fused.leaf import Mask, Tensors
from fedloru.errors import ModelError


def layer_norm(t: Tensors, layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """Fold ``nn.LayerNorm``: the normalization is per example, the affine map per client."""
    return _normed(t, x, -1, lambda w, b: F.layer_norm(x, layer.normalized_shape, w, b, layer.eps))


def rms_norm(t: Tensors, layer: nn.RMSNorm, x: Tensor) -> Tensor:
    """Fold ``nn.RMSNorm``."""
    return _normed(t, x, -1, lambda w, b: F.rms_norm(x, layer.normalized_shape, w, layer.eps))


def group_norm(t: Tensors, layer: nn.GroupNorm, x: Tensor) -> Tensor:
    """Fold ``nn.GroupNorm``."""
    return _normed(t, x, 1, lambda w, b: F.group_norm(x, layer.num_groups, w, b, layer.eps))


def _normed(t: Tensors, x: Tensor, axis: int, norm: Callable[[Tensor | None, Tensor | None], Tensor]) -> Tensor:
    """Normalize with shared affine parameters in one call, or normalize and then apply those of each client."""
    (weight, weight_stacked), (bias, bias_stacked) = t.get("weight"), t.get("bias")
    if not weight_stacked and not bias_stacked:
        return norm(weight, bias)
    return _affine(t, norm(None, None), axis)


def _affine(t: Tensors, y: Tensor, axis: int) -> Tensor:
    dtype = y.dtype
    for name, op in (("weight", torch.mul), ("bias", torch.add)):
        p, stacked = t.get(name)
        if p is None:
            continue
        if stacked:
            y = products.fold_op(op, y, p, t.clients, axis)
        else:
            y = op(y, p if axis == -1 else products.broadcast(p, y.ndim, axis))
    return y.to(dtype)


def batch_norm(t: Tensors, layer: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """Fold BatchNorm: each client has its own batch statistics and running statistics.

    Viewed as (b, m·channels, …), m clients are one BatchNorm with m times the channels. Padding rows would change the
    statistics, so for a batch with padding they are computed by masked sums.
    """
    if layer.momentum is None or not layer.training:
        raise ModelError("BatchNorm with momentum=None, or kept in evaluation mode, cannot be folded")
    m = t.clients
    mean, _ = t.get("running_mean")
    var, _ = t.get("running_var")
    if m == 1 and t.mask is None:
        (w, _), (b, _) = t.get("weight"), t.get("bias")
        return F.batch_norm(x, mean, var, w, b, training=True, momentum=layer.momentum, eps=layer.eps)
    if t.mask is None:
        wide = x.unflatten(0, (m, -1)).transpose(0, 1).flatten(1, 2)
        flat = [None if s is None else s.view(-1) for s in (mean, var)]
        y = F.batch_norm(wide, flat[0], flat[1], training=True, momentum=layer.momentum, eps=layer.eps)
        y = y.unflatten(1, (m, -1)).transpose(0, 1).flatten(0, 1)
    else:
        y = _masked_norm(x, t.mask, mean, var, layer.momentum, layer.eps)
    return _affine(t, y, 1)


def _masked_norm(
    x: Tensor, mask: Mask, running_mean: Tensor | None, running_var: Tensor | None, momentum: float, eps: float
) -> Tensor:
    valid = mask.valid
    m, b = valid.shape
    each = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(0, (m, b))
    keep = valid.to(each.dtype).view(m, b, *(1 for _ in x.shape[1:]))
    over = [1, *range(3, each.ndim)]
    pixels = each[0, 0, 0].numel()
    if pixels == 1 and mask.fewest == 1:
        raise ValueError("Expected more than 1 value per channel when training, got 1 example")
    n = valid.sum(1).to(each.dtype) * pixels
    shape = (m, 1, -1, *(1 for _ in x.shape[2:]))
    n_wide = n.view(m, *(1 for _ in each.shape[1:]))
    mean = (each * keep).sum(over, keepdim=True) / n_wide
    var = ((each - mean).square() * keep).sum(over, keepdim=True) / n_wide
    if running_mean is not None and running_var is not None:
        unbiased = var.detach().view(m, -1) * (n / (n - 1)).view(m, 1)
        running_mean.view(m, -1).lerp_(mean.detach().view(m, -1), momentum)
        running_var.view(m, -1).lerp_(unbiased, momentum)
    normed: Tensor = ((each - mean.view(shape)) * torch.rsqrt(var.view(shape) + eps)).flatten(0, 1)
    return normed.to(x.dtype)
