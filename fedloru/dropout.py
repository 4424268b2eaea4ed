"""Dropout with masks per client, independent of the engine and of padding.

torch draws dropout masks from one global generator in sequence, so two engines would get different masks, as would
padded and unpadded texts; "seeded draws" would not hold. Inside a ``ClientDropout``, a mask is not a sequence of draws,
but a function of the client's seed, the index of the call and the position in the tensor: an additional row or token
does not change the others. The bits come from a hash that combines the position's index along every axis.

A checkpointed layer is computed again in the backward pass, and must get the same masks. Before recomputing it, torch
restores the state that the CPU's global generator had in the forward pass. Each call therefore draws a number from
that generator; if the number has occurred before, the call is a repeated one.

Intercepting every operation of a step costs more than a small layer takes, so a model that has drawn no random numbers
is trained without a ``ClientDropout`` the next time; a layer that draws nothing computes the same in both cases. If the
model draws from a global generator after all, the result is discarded, and it is trained again with one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from fedloru import tree
from fedloru.rng import derive, forked, gen, reseed, states
from fedloru.tree import Params

T = TypeVar("T")

_ELEMENTWISE = (F.dropout,)
_CHANNELWISE = (F.dropout1d, F.dropout2d, F.dropout3d)
_CALL_STRIDE, _AXIS_STRIDE = 0x9E3779B1, 1 << 24
"""Offsets between calls, an odd number near 2³²/φ, and between axes, each shorter than 2²⁴."""


class ClientDropout(TorchFunctionMode):
    """Apply to each client of a batch the dropout masks that it would get if it were trained alone.

    The batch holds m clients, folded client-major. The context spans the forward pass and ``backward`` of one local
    step, and draws one seed for it from each client's generator.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.seeds = [int(torch.randint(2**32, (), generator=generator, device="cpu")) for generator in generators]
        self.calls: dict[int, int] = {}
        """The index of each call, by the number that it drew."""

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
        """Call torch's attention kernels without dropout, and compute their formula explicitly with dropout."""
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
        starts = [_signed(seed + call * _CALL_STRIDE) for seed in self.seeds]
        bits = _hash(tree.upload(torch.tensor(starts, dtype=torch.int32), like.device))
        for axis, size in enumerate((shape[0] // len(starts), *shape[1:])):
            index = torch.arange(size, dtype=torch.int32, device=like.device)
            bits = bits.unsqueeze(-1) + _hash(index + _AXIS_STRIDE * (axis + 1))
        # The hash is uniform over 2³² integers; positions below the bound are kept.
        kept = _hash(bits) < min(round(keep * 2**32) - 2**31, 2**31 - 1)
        return kept.flatten(0, 1).to(like.dtype)


def _hash(x: Tensor) -> Tensor:
    """Return a hash of int32 values: Wellons' lowbias32 without the last shift."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x *= 0x7FEB352D
    x ^= (x >> 15) & 0x1FFFF
    x *= _signed(0x846CA68B + 2**31)
    return x


def _signed(number: int) -> int:
    """Map the integers modulo 2³² one-to-one to int32."""
    return number % 2**32 - 2**31


class Masks:
    """The dropout masks of clients in training, by their ``generators``.

    Attributes:
        drawn: whether masks are drawn; if not, dropout draws from torch's global generators.
        used: whether any mask has been drawn.
    """

    def __init__(self, generators: Sequence[torch.Generator], *, drawn: bool = True) -> None:
        self.generators, self.drawn, self.used = generators, drawn, False

    @contextmanager
    def step(self, clients: int) -> Iterator[None]:
        """Return the context of a local step of the first ``clients``."""
        if not self.drawn:
            yield
            return
        with ClientDropout(self.generators[:clients]) as dropout:
            yield
        self.used |= bool(dropout.calls)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a 0-d ``loss`` in its leaves, inside the context of the step.

        torch disables a function mode while it handles a call on tensors, so checkpointed layers that are computed
        again in ``loss.backward()`` would draw from the global generator. Calls on edges of the graph leave the mode
        active.
        """
        torch.autograd.backward(get_gradient_edge(loss) if self.drawn else loss)

    def gradients(self, loss: Tensor, leaves: Params) -> dict[str, Tensor | None]:
        """Return the gradients of a 0-d ``loss``, inside the context of the step; None where it does not depend."""
        values = list(leaves.values())
        if self.drawn:
            edges = [get_gradient_edge(leaf) for leaf in values]
            found = torch.autograd.grad(get_gradient_edge(loss), edges, allow_unused=True)
        else:
            found = torch.autograd.grad(loss, values, allow_unused=True)
        return dict(zip(leaves, found, strict=True))


def train_with_masks(
    model: nn.Module,
    device: torch.device,
    train: Callable[[Masks], T],
    *,
    seed: int,
    round: int,
    clients: Sequence[int],
) -> T:
    """Return the result of ``train``, which is called with the dropout masks of ``clients``, at most twice.

    torch's global generators are seeded as well, and their states restored.
    """
    global_seed = derive(seed, "global", round, clients[0])
    with forked(device):
        if model in _deterministic:
            before = reseed(device, global_seed)
            try:
                result = train(Masks((), drawn=False))
            except Exception:
                if _unchanged(before, device):
                    raise
            else:
                if _unchanged(before, device):
                    return result
            _deterministic.discard(model)
        before, masks = reseed(device, global_seed), Masks(generators(seed, round, clients))
        result = train(masks)
        if not masks.used and _unchanged(before, device):
            _deterministic.add(model)
        return result


_deterministic: WeakSet[nn.Module] = WeakSet()
"""Models whose last training has drawn no random numbers."""


def _unchanged(before: Sequence[Tensor], device: torch.device) -> bool:
    return all(map(torch.equal, before, states(device)))


def generators(seed: int, round: int, clients: Sequence[int]) -> list[torch.Generator]:
    """Return the dropout generators of ``clients`` for one round; they do not depend on the device."""
    return [gen(seed, "dropout", round, client) for client in clients]
