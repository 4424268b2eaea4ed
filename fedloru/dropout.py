"""Dropout whose masks belong to a client, whatever engine runs it and however its texts are padded.

torch draws dropout masks from one global generator, one number after the other, so that two engines could never agree
(law 7), nor a text that is padded with one that is not. Inside a ``ClientDropout`` a mask is no sequence of draws but a
function of the client's seed, the number of the call and the place in the tensor: one more row, or token, changes none
of the others. Bits come from a hash, each place adding that of its index along every axis.

A checkpointed layer is computed again in the backward pass, and must get the same masks again. Before it is, torch
sets its global generator, that of the CPU, back to where the forward pass was. So each call takes a number from there:
a number that has come before is a call repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from fedloru.rng import gen
from fedloru.tree import Params

_ELEMENTWISE = (F.dropout,)
_CHANNELWISE = (F.dropout1d, F.dropout2d, F.dropout3d)
_CALL, _AXIS = 0x9E3779B1, 1 << 24
"""What sets calls apart, an odd number near 2³²/φ, and axes, each of fewer than 2²⁴ places."""


class ClientDropout(TorchFunctionMode):
    """While active, dropout over a batch of m clients, folded client-major, has the masks of each client alone.

    It is for the forward pass and ``backward`` of one local step, for which it takes a seed from each generator.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.seeds = [int(torch.randint(2**32, (), generator=generator, device="cpu")) for generator in generators]
        self.calls: dict[int, int] = {}
        """How many calls came before each, by the number that the call took."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ELEMENTWISE:
            return self._drop(*args, channels=False, **kwargs)
        if func in _CHANNELWISE:
            return self._drop(*args, channels=True, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _drop(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, channels: bool
    ) -> Tensor:
        if not training or p == 0.0:
            return input
        shape = (*input.shape[:2], *(1 for _ in input.shape[2:])) if channels else input.shape
        keep = 1 - p
        return input * (self._mask(torch.Size(shape), keep, input) / (keep or 1.0))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attend by one of torch's kernels where nothing is dropped, and else by the formula that they compute."""
        if dropout_p == 0.0:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        scores = query @ key.mT * (scale or 1 / math.sqrt(query.shape[-1]))
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._drop(scores.softmax(-1), dropout_p, channels=False) @ value

    def _mask(self, shape: torch.Size, keep: float, like: Tensor) -> Tensor:
        number = int(torch.randint(2**62, (), device="cpu"))
        call = self.calls.setdefault(number, len(self.calls))
        starts = [_signed(seed + call * _CALL) for seed in self.seeds]
        place = _hash(torch.tensor(starts, dtype=torch.int32, device=like.device))
        for axis, size in enumerate((shape[0] // len(starts), *shape[1:])):
            along = torch.arange(size, dtype=torch.int32, device=like.device)
            place = place.unsqueeze(-1) + _hash(along + _AXIS * (axis + 1))
        # Of 2³² equally likely integers, those below the bound are kept.
        kept = _hash(place) < min(round(keep * 2**32) - 2**31, 2**31 - 1)
        return kept.flatten(0, 1).to(like.dtype)


def _hash(x: Tensor) -> Tensor:
    """Return a hash of int32: the shifts and products of Wellons' lowbias32, all but the last shift."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x *= 0x7FEB352D
    x ^= (x >> 15) & 0x1FFFF
    x *= _signed(0x846CA68B + 2**31)
    return x


def _signed(number: int) -> int:
    """Return an int32 that goes through all of them as ``number`` goes through the integers."""
    return number % 2**32 - 2**31


def backward(loss: Tensor) -> None:
    """Add the gradients of a 0-d ``loss`` to its leaves, in the mode of the forward pass.

    torch leaves a mode while it handles a call on tensors, and layers that are computed again in a backward pass
    would draw from the global generator. A call on edges of the graph it does not handle in this way.
    """
    torch.autograd.backward(get_gradient_edge(loss))


def gradients(loss: Tensor, leaves: Params) -> Params:
    """Return the gradients of a 0-d ``loss``, in the mode of the forward pass; 0 for a leaf that took no part."""
    edges = [get_gradient_edge(leaf) for leaf in leaves.values()]
    found: Sequence[Tensor | None] = torch.autograd.grad(get_gradient_edge(loss), edges, allow_unused=True)
    return {key: torch.zeros_like(leaves[key]) if g is None else g for key, g in zip(leaves, found, strict=True)}


def generators(seed: int, round: int, clients: Sequence[int]) -> list[torch.Generator]:
    """Return the dropout generators of ``clients`` for one round; they are the same whatever the device."""
    return [gen(seed, "dropout", round, client) for client in clients]
