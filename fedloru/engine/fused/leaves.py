"""Leaves: folded versions of layers with parameters. Each maps (m·b, …) to the outputs that m separate layers have.

A leaf is looked up by the exact type of its module. Layers without trained parameters need no leaf and run unchanged,
because they do not depend on which client an example belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.engine.fused import products
from fedloru.engine.fused.gradients import Outer
from fedloru.engine.fused.local_weight import LocalWeight
from fedloru.errors import ModelError
from fedloru.lowrank import LowRankConv2d, LowRankEmbedding, LowRankLinear
from fedloru.lowrank.layers import promoted, still_padding


class Mask(NamedTuple):
    """Which rows of a folded batch are examples: ``valid`` (m, b), and the ``fewest`` that a client has.

    The number is known without reading from the device, which would wait for it in every step.
    """

    valid: Tensor
    fewest: int


class Tensors(Protocol):
    """The interface between a leaf and the fold that it belongs to."""

    @property
    def clients(self) -> int:
        """The number of folded clients, m."""

    @property
    def mask(self) -> Mask | None:
        """Which batch rows are examples; None: all are."""

    @property
    def rows(self) -> int:
        """The number of rows of the folded batch, m·b."""

    def get(self, name: str) -> tuple[Tensor | None, bool]:
        """Return a tensor of this module, and whether it is stacked over clients."""

    def local(self, name: str, rows: int) -> LocalWeight | None:
        """Return a weight if its clients train it from one start; ``rows`` is the number of rows of its input."""

    def sink(self, name: str) -> list[Outer] | None:
        """Return where the gradient of a tensor may be added as a product; None unless it is a leaf of the graph."""

    def weight_space(self, rows: int, o: int, i: int, r: int) -> bool:
        """Return whether computing W + s·BA once is cheaper than applying W and BA separately."""


def _dense(t: Tensors, name: str) -> tuple[Tensor, bool]:
    tensor, stacked = t.get(name)
    assert tensor is not None
    return tensor, stacked


def _bias(t: Tensors, y: Tensor, axis: int) -> Tensor:
    bias, stacked = t.get("bias")
    return products.add_bias(y, bias, t.clients, axis, stacked=stacked)


def linear(t: Tensors, layer: nn.Linear, x: Tensor) -> Tensor:
    """Fold ``nn.Linear``."""
    sink = t.sink("weight")
    if sink is not None and (local := t.local("weight", x.numel() // x.shape[-1])) is not None:
        y = local.linear(x.reshape(t.clients, -1, x.shape[-1]), sink)
        return _bias(t, y.view(*x.shape[:-1], y.shape[-1]), -1)
    w, stacked = _dense(t, "weight")
    bias, bias_stacked = t.get("bias")
    if not stacked and not bias_stacked:
        return F.linear(x, w, bias)
    return _bias(t, products.linear(x, w, t.clients, stacked=stacked, sink=sink), -1)


def conv2d(t: Tensors, layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Fold ``nn.Conv2d``, including grouped convolutions."""
    w, stacked = _dense(t, "weight")
    return _conv(t, layer, x, w, stacked)


def _conv(t: Tensors, layer: nn.Conv2d, x: Tensor, w: Tensor, stacked: bool) -> Tensor:
    bias, bias_stacked = t.get("bias")
    if bias is None or bias_stacked == stacked:
        return products.conv(layer, x, w, bias, t.clients, stacked=stacked)
    y = products.conv(layer, x, w, None, t.clients, stacked=stacked)
    return products.add_bias(y, bias, t.clients, 1, stacked=bias_stacked)


def embedding(t: Tensors, layer: nn.Embedding, ids: Tensor) -> Tensor:
    """Fold ``nn.Embedding``; ids shared by the whole batch, (1, …), are looked up for every client."""
    if layer.max_norm is not None or layer.scale_grad_by_freq:
        raise ModelError("an embedding with max_norm or scale_grad_by_freq cannot be folded")
    w, stacked = _dense(t, "weight")
    return _lookup(t, layer, ids, w, stacked)


def _lookup(t: Tensors, layer: nn.Embedding, ids: Tensor, w: Tensor, stacked: bool) -> Tensor:
    if not stacked:
        return F.embedding(ids, w, layer.padding_idx)
    m, vocabulary = w.shape[:2]
    if ids.shape[0] == 1:
        ids = ids.expand(t.rows, *ids.shape[1:])
    if ids.shape[0] % m:
        raise ModelError(
            f"token ids of shape {tuple(ids.shape)} cannot be split into {m} clients along their first axis"
        )
    offsets = torch.arange(m, device=ids.device).view(m, *(1 for _ in ids.shape)) * vocabulary
    y = F.embedding((ids.unflatten(0, (m, -1)) + offsets).flatten(0, 1), w.flatten(0, 1))
    if layer.padding_idx is None:
        return y
    padding = (ids == layer.padding_idx % vocabulary).unsqueeze(-1)
    return torch.where(padding, y.detach(), y)


def lowrank_linear(t: Tensors, layer: LowRankLinear, x: Tensor) -> Tensor:
    """Fold a low-rank linear layer, in activation space or in weight space."""
    w, w_stacked = _dense(t, "weight")
    (a, a_stacked), (b, b_stacked) = _dense(t, "a"), _dense(t, "b")
    bias, bias_stacked = t.get("bias")
    m, drop = t.clients, layer.drop if layer.training else 0.0
    if not w_stacked and a_stacked and b_stacked and not drop and products.compatible(w, a):
        rows = x.reshape(m, -1, x.shape[-1])
        if t.weight_space(rows.shape[1], w.shape[0], w.shape[1], a.shape[1]):
            merged = torch.baddbmm(w.unsqueeze(0), b, a, alpha=layer.scale)
            return _bias(t, products.linear(x, merged, m, stacked=True), -1)
        y = products.lowrank_linear(rows, w, a, b, bias if bias_stacked else None, layer.scale)
        y = y.view(*x.shape[:-1], w.shape[0])
        return y if bias_stacked else products.add_bias(y, bias, m, -1, stacked=False)
    h = F.dropout(products.linear(promoted(x, a), a, m, stacked=a_stacked), drop, drop > 0)
    up = layer.scale * products.linear(h, b, m, stacked=b_stacked)
    y = products.linear(x, w, m, stacked=w_stacked)
    return products.add_bias(y + up.to(y.dtype), bias, m, -1, stacked=bias_stacked)


def lowrank_conv2d(t: Tensors, layer: LowRankConv2d, x: Tensor) -> Tensor:
    """Fold a low-rank convolution, in activation space or in weight space."""
    w, w_stacked = _dense(t, "weight")
    (a, a_stacked), (b, b_stacked) = _dense(t, "a"), _dense(t, "b")
    m, drop = t.clients, layer.drop if layer.training else 0.0
    if not w_stacked and a_stacked and b_stacked and not drop and products.compatible(w, a):
        rows = x.shape[0] // m * x.shape[2] * x.shape[3]
        if t.weight_space(rows, w.shape[0], w[0].numel(), a.shape[1]):
            change = torch.bmm(b.flatten(2), a.flatten(2)).view(m, *w.shape)
            return _conv(t, layer, x, w + layer.scale * change, stacked=True)
    h = F.dropout(products.conv(layer, promoted(x, a), a, None, m, stacked=a_stacked), drop, drop > 0)
    y = _conv(t, layer, x, w, w_stacked)
    return products.add_pointwise(y, h, b, m, layer.scale, stacked=b_stacked)


def lowrank_embedding(t: Tensors, layer: LowRankEmbedding, ids: Tensor) -> Tensor:
    """Fold a low-rank embedding: rows of B are looked up, then mapped by A."""
    w, w_stacked = _dense(t, "weight")
    (a, a_stacked), (b, b_stacked) = _dense(t, "a"), _dense(t, "b")
    plain = nn.Embedding(1, 1, device="meta")  # B has no padding row
    drop = layer.drop if layer.training else 0.0
    h = F.dropout(_lookup(t, plain, ids, b, b_stacked), drop, drop > 0)
    up = layer.scale * products.linear(h, a.mT, t.clients, stacked=a_stacked)
    return _lookup(t, layer, ids, w, w_stacked) + still_padding(up, ids, layer.padding_idx).to(w.dtype)


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


Leaf = Callable[[Tensors, Any, Tensor], Tensor]

LEAVES: dict[type[nn.Module], Leaf] = {
    nn.Linear: linear,
    nn.Conv2d: conv2d,
    nn.Embedding: embedding,
    LowRankLinear: lowrank_linear,
    LowRankConv2d: lowrank_conv2d,
    LowRankEmbedding: lowrank_embedding,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    nn.GroupNorm: group_norm,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.BatchNorm3d: batch_norm,
}
