"""Layers that compute with W + s·BA, where W is frozen and only the factors are trained.

Each is a subclass of the torch layer that it replaces, and keeps the state-dict keys of that layer: ``weight`` and
``bias`` are unchanged, ``a`` and ``b`` are added. With B = 0, or factors of rank 0, the output is exactly that of the
original layer.
Dropout, if any, is applied to the rank-space activation, as in the published code of FedLoRU. Factors are float32 or
wider even if the weight is narrower: a step in bfloat16 would round away most of the update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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
        if not len(self.a):
            return super().forward(input)
        h = F.dropout(F.linear(promoted(input, self.a), self.a), self.drop, self.training and self.drop > 0)
        y = super().forward(input)
        return y + (self.scale * F.linear(h, self.b)).to(y.dtype)


class LowRankConv2d(nn.Conv2d):
    """A convolution with W + s·BA: a k×k convolution to r channels, then a 1×1 convolution to o."""

    a: nn.Parameter
    b: nn.Parameter
    scale: float
    drop: float

    def forward(self, input: Tensor) -> Tensor:
        """Map (b, i, h, w) to (b, o, h', w')."""
        if not len(self.a):
            return super().forward(input)
        h = self._conv_forward(promoted(input, self.a), self.a, None)
        h = F.dropout(h, self.drop, self.training and self.drop > 0)
        y = super().forward(input)
        return y + (self.scale * F.conv2d(h, self.b)).to(y.dtype)


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
        if not len(self.a):
            return super().forward(input)
        h = F.dropout(F.embedding(input, self.b), self.drop, self.training and self.drop > 0)
        change = still_padding(self.scale * (h @ self.a), input, self.padding_idx)
        return super().forward(input) + change.to(self.weight.dtype)


def still_padding(change: Tensor, ids: Tensor, padding_idx: int | None) -> Tensor:
    """Return ``change`` (…, d), detached at the positions where ``ids`` (…) are padding."""
    if padding_idx is None:
        return change
    return torch.where((ids == padding_idx).unsqueeze(-1), change.detach(), change)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype of products on ``device`` under autocast, or None if autocast is not active."""
    kind = device.type
    active = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if active else None


def promoted(x: Tensor, factor: Tensor) -> Tensor:
    """Return ``x`` in the dtype of ``factor``, with which it will be multiplied, unless autocast chooses another."""
    return x.to(factor.dtype) if autocast_dtype(x.device) is None else x


LowRank = LowRankLinear | LowRankConv2d | LowRankEmbedding
Adaptable = nn.Linear | nn.Conv2d | nn.Embedding


LOW_RANK: dict[type[Adaptable], type[LowRank]] = {
    nn.Linear: LowRankLinear,
    nn.Conv2d: LowRankConv2d,
    nn.Embedding: LowRankEmbedding,
}
"""The low-rank layer that replaces each type of layer."""


def why_not(layer: Adaptable) -> str | None:
    """Return why ``layer`` cannot be turned into a low-rank layer, or None if it can."""
    weight = layer._parameters.get("weight")
    if type(layer) not in LOW_RANK or "forward" in vars(layer):
        return f"it is a {type(layer).__name__} with a custom forward pass, which would be lost"
    if weight is None:
        return f"its weight is computed from {' and '.join(layer._parameters.keys() - {'bias', 'weight'})}"
    if type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.itemsize == 1:
        return f"its weight is a {type(weight).__name__} of {weight.dtype}, to which no product BA can be added"
    if taken := [name for name in ("a", "b", "scale", "drop") if hasattr(layer, name)]:
        return f"it has an attribute {taken[0]!r}, a name that low-rank layers use"
    return None


def adapt(layer: Adaptable, rank: int, scale: float, drop: float = 0.0) -> LowRank:
    """Turn ``layer`` into a low-rank layer in place, with factors of zeros, and return it.

    In place, every reference to the layer remains valid, and its hooks keep working.
    """
    layer.__class__ = LOW_RANK[type(layer)]
    assert isinstance(layer, LowRank)
    weight = layer.weight.requires_grad_(False)
    o, *inner = weight.shape
    dtype, device = torch.promote_types(weight.dtype, torch.float32), weight.device
    layer.a = nn.Parameter(torch.zeros(rank, *inner, dtype=dtype, device=device))
    layer.b = nn.Parameter(torch.zeros(o, rank, *(1 for _ in inner[1:]), dtype=dtype, device=device))
    layer.scale, layer.drop = scale, drop
    return layer


def restore(layer: LowRank, weight: Tensor) -> Adaptable:
    """Turn ``layer`` back into a plain torch layer in place, with ``weight`` in place of W, and return it."""
    del layer.a, layer.b, layer.scale, layer.drop
    layer.weight = nn.Parameter(weight)
    plain: Any = layer
    plain.__class__ = _plain_type(layer)
    restored: Adaptable = plain
    return restored


@contextmanager
def without_factors(layers: Iterable[LowRank]) -> Iterator[None]:
    """Let ``layers`` compute with their weight alone inside the context, as the torch layers that they replaced."""
    changed: list[tuple[Any, type]] = [(layer, type(layer)) for layer in layers]
    try:
        for layer, _ in changed:
            layer.__class__ = _plain_type(layer)
        yield
    finally:
        for layer, low_rank in changed:
            layer.__class__ = low_rank


def _plain_type(layer: LowRank) -> type[Adaptable]:
    return next(kind for kind, adapted in LOW_RANK.items() if isinstance(layer, adapted))
