"""Dropout whose masks belong to a client, whatever engine runs it.

torch draws dropout masks from one global generator, so that two engines could never agree (law 7). Inside a
``ClientDropout`` every dropout function draws from the client's own generator, one mask a client, in the order of
the forward pass. Rows of a folded batch that only pad a client's short batch draw nothing.

A checkpointed layer is computed again in the backward pass, and must draw the same masks again. Before it is, torch
sets its global generator, that of the CPU, back to where the forward pass was. So each call takes a number from there:
a number that has come before is a call repeated, and the clients' generators are set back as well, for that call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from fedloru.rng import Device, gen
from fedloru.tree import Params

_ELEMENTWISE = (F.dropout,)
_CHANNELWISE = (F.dropout1d, F.dropout2d, F.dropout3d)


class ClientDropout(TorchFunctionMode):
    """While active, dropout over a batch of m clients, folded client-major, draws from m generators.

    It is for the forward pass and ``backward`` of one local step. ``counts`` are the valid rows of each client among
    the ``width`` rows of its padded batch; None: all are.
    """

    def __init__(
        self, generators: Sequence[torch.Generator], counts: Sequence[int] | None = None, width: int = 1
    ) -> None:
        super().__init__()
        self.generators = generators
        self.counts = counts
        self.width = width
        self.before: dict[int, list[Tensor]] = {}
        """The states of the generators before each call, by the number that the call took."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ELEMENTWISE:
            return self._drop(*args, channels=False, **kwargs)
        if func in _CHANNELWISE:
            return self._drop(*args, channels=True, **kwargs)
        return func(*args, **kwargs)

    def _drop(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, channels: bool
    ) -> Tensor:
        if not training or p == 0.0:
            return input
        shape = (*input.shape[:2], *(1 for _ in input.shape[2:])) if channels else input.shape
        keep = 1 - p
        return input * (self._mask(torch.Size(shape), keep, input) / (keep or 1.0))

    def _mask(self, shape: torch.Size, keep: float, like: Tensor) -> Tensor:
        number = int(torch.randint(2**62, (), device="cpu"))
        now = [generator.get_state() for generator in self.generators]
        if number not in self.before:
            self.before[number] = now
            return self._draw(shape, keep, like)
        self._set(self.before[number])
        mask = self._draw(shape, keep, like)
        self._set(now)
        return mask

    def _set(self, states: Sequence[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def _draw(self, shape: torch.Size, keep: float, like: Tensor) -> Tensor:
        m = len(self.generators)
        mask = torch.zeros((m, shape[0] // m, *shape[1:]), dtype=like.dtype, device=like.device)
        per_example = mask.shape[1] // self.width  # dropout may act on (m·b·T, …), T rows an example
        for c, generator in enumerate(self.generators):
            rows = mask[c] if self.counts is None else mask[c, : self.counts[c] * per_example]
            rows.bernoulli_(keep, generator=generator)
        return mask.flatten(0, 1)


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


def generators(seed: int, round: int, clients: Sequence[int], device: Device) -> list[torch.Generator]:
    """Return the dropout generators of ``clients`` for one round."""
    return [gen(seed, "dropout", round, client, device=device) for client in clients]
