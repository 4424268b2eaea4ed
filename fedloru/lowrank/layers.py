"""Layers that compute with W + s·BA, where W is frozen and only the factors are trained.

Each is a subclass of the torch layer that it replaces, and keeps the state-dict keys of that layer: ``weight`` and
``bias`` are unchanged, ``a`` and ``b`` are added. With B = 0 the output is exactly that of the original layer.
Dropout, if any, is applied to the rank-space activation, as in the published code of FedLoRU. Factors are float32 or
wider even if the weight is narrower: a step in bfloat16 would round away most of the update.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRankLinear(nn.Linear):
    """A linear layer y = x (W + s·BA)ᵀ + bias."""

    a: nn.Parameter
    b: nn.Parameter
    scale: float
    drop: float

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, i) to (…, o)."""
        h = F.dropout(F.linear(input.to(self.a.dtype), self.a), self.drop, self.training and self.drop > 0)
        return super().forward(input) + (self.scale * F.linear(h, self.b)).to(input.dtype)


class LowRankConv2d(nn.Conv2d):
    """A convolution with W + s·BA: a k×k convolution to r channels, then a 1×1 convolution to o."""

    a: nn.Parameter
    b: nn.Parameter
    scale: float
    drop: float

    def forward(self, input: Tensor) -> Tensor:
        """Map (b, i, h, w) to (b, o, h', w')."""
        h = self._conv_forward(input.to(self.a.dtype), self.a, None)
        h = F.dropout(h, self.drop, self.training and self.drop > 0)
        return super().forward(input) + (self.scale * F.conv2d(h, self.b)).to(input.dtype)


class LowRankEmbedding(nn.Embedding):
    """An embedding that looks up rows of W + s·BA, with B (V, r) and A (r, d).

    As in ``nn.Embedding``, padding tokens contribute nothing to the gradients.
    """

    a: nn.Parameter
    b: nn.Parameter
    scale: float
    drop: float

    def forward(self, input: Tensor) -> Tensor:
        """Map token ids (…) to vectors (…, d)."""
        h = F.dropout(F.embedding(input, self.b), self.drop, self.training and self.drop > 0)
        change = still_padding(self.scale * (h @ self.a), input, self.padding_idx)
        return super().forward(input) + change.to(self.weight.dtype)


def still_padding(change: Tensor, ids: Tensor, padding_idx: int | None) -> Tensor:
    """Return ``change`` (…, d), detached at the positions where ``ids`` (…) are padding."""
    if padding_idx is None:
        return change
    return torch.where((ids == padding_idx).unsqueeze(-1), change.detach(), change)


LowRank = LowRankLinear | LowRankConv2d | LowRankEmbedding
Adaptable = nn.Linear | nn.Conv2d | nn.Embedding


def adapt(layer: Adaptable, rank: int, scale: float, drop: float = 0.0) -> LowRank:
    """Return a low-rank layer with the weight and bias of ``layer``, and factors of zeros."""
    new: LowRank
    if isinstance(layer, nn.Linear):
        new = LowRankLinear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    elif isinstance(layer, nn.Conv2d):
        new = LowRankConv2d(**_conv_settings(layer), device="meta")  # type: ignore[arg-type]
    else:
        new = LowRankEmbedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx, device="meta")
    weight = layer.weight
    new.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if not isinstance(layer, nn.Embedding) and layer.bias is not None:
        new.bias = layer.bias
    o, *inner = weight.shape
    dtype, device = torch.promote_types(weight.dtype, torch.float32), weight.device
    new.a = nn.Parameter(torch.zeros(rank, *inner, dtype=dtype, device=device))
    new.b = nn.Parameter(torch.zeros(o, rank, *(1 for _ in inner[1:]), dtype=dtype, device=device))
    new.scale, new.drop = scale, drop
    return new.train(layer.training)


def restore(layer: LowRank, weight: Tensor) -> Adaptable:
    """Return the plain torch layer, with ``weight`` in place of W."""
    plain: Adaptable
    if isinstance(layer, LowRankLinear):
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    elif isinstance(layer, LowRankConv2d):
        plain = nn.Conv2d(**_conv_settings(layer), device="meta")  # type: ignore[arg-type]
    else:
        plain = nn.Embedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx, device="meta")
    plain.weight = nn.Parameter(weight)
    if not isinstance(layer, LowRankEmbedding) and layer.bias is not None:
        plain.bias = layer.bias
    return plain.train(layer.training)


def _conv_settings(layer: nn.Conv2d) -> dict[str, object]:
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "bias": layer.bias is not None,
        "padding_mode": layer.padding_mode,
    }
