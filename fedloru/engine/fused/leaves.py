"""Leaves by the type of layer, and those of linear, convolution and embedding layers.

A leaf is looked up by the exact type of its module. Layers without trained parameters need no leaf and run unchanged,
because they do not depend on which client an example belongs to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.engine.fused import norms, products
from fedloru.engine.fused.leaf import Leaf, Tensors
from fedloru.errors import ModelError
from fedloru.lowrank import LowRankConv2d, LowRankEmbedding, LowRankLinear
from fedloru.lowrank.layers import promoted, still_padding


def _dense(t: Tensors, name: str) -> tuple[Tensor, bool]:
    tensor, stacked = t.get(name)
    assert tensor is not None
    return tensor, stacked


def _bias(t: Tensors, y: Tensor, axis: int) -> Tensor:
    bias, stacked = t.get("bias")
    return products.add_bias(y, bias, t.clients, axis, stacked=stacked)


def linear(t: Tensors, layer: nn.Linear, x: Tensor) -> Tensor:
    """Fold ``nn.Linear``, or a low-rank layer with factors of rank 0."""
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
    (a, a_stacked), (b, b_stacked) = _dense(t, "a"), _dense(t, "b")
    if not b.numel():
        return linear(t, layer, x)
    w, w_stacked = _dense(t, "weight")
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
    if not b.numel():
        return _conv(t, layer, x, w, w_stacked)
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
    if not b.numel():
        return _lookup(t, layer, ids, w, w_stacked)
    plain = nn.Embedding(1, 1, device="meta")  # B has no padding row
    drop = layer.drop if layer.training else 0.0
    h = F.dropout(_lookup(t, plain, ids, b, b_stacked), drop, drop > 0)
    up = layer.scale * products.linear(h, a.mT, t.clients, stacked=a_stacked)
    return _lookup(t, layer, ids, w, w_stacked) + still_padding(up, ids, layer.padding_idx).to(w.dtype)


LEAVES: dict[type[nn.Module], Leaf] = {
    nn.Linear: linear,
    nn.Conv2d: conv2d,
    nn.Embedding: embedding,
    LowRankLinear: lowrank_linear,
    LowRankConv2d: lowrank_conv2d,
    LowRankEmbedding: lowrank_embedding,
    nn.LayerNorm: norms.layer_norm,
    nn.RMSNorm: norms.rms_norm,
    nn.GroupNorm: norms.group_norm,
    nn.BatchNorm1d: norms.batch_norm,
    nn.BatchNorm2d: norms.batch_norm,
    nn.BatchNorm3d: norms.batch_norm,
}
