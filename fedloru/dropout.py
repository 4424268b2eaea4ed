"""Dropout whose masks belong to a client, whatever engine runs it.

torch draws dropout masks from one global generator, so that two engines could never agree (law 7). Inside a
``ClientDropout`` every dropout function draws from the client's own generator, one mask a client, in the order of
the forward pass. Rows of a folded batch that only pad a client's short batch draw nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fedloru.rng import Device, gen

_ELEMENTWISE = (F.dropout,)
_CHANNELWISE = (F.dropout1d, F.dropout2d, F.dropout3d)


class ClientDropout(TorchFunctionMode):
    """While active, dropout over a batch of m clients, folded client-major, draws from m generators.

    ``counts`` are the valid rows of each client among the ``width`` rows of its padded batch; None: all are.
    """

    def __init__(
        self, generators: Sequence[torch.Generator], counts: Sequence[int] | None = None, width: int = 1
    ) -> None:
        super().__init__()
        self.generators = generators
        self.counts = counts
        self.width = width

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
        m = len(self.generators)
        mask = torch.zeros((m, shape[0] // m, *shape[1:]), dtype=like.dtype, device=like.device)
        per_example = mask.shape[1] // self.width  # dropout may act on (m·b·T, …), T rows an example
        for c, generator in enumerate(self.generators):
            rows = mask[c] if self.counts is None else mask[c, : self.counts[c] * per_example]
            rows.bernoulli_(keep, generator=generator)
        return mask.flatten(0, 1)


def generators(seed: int, round: int, clients: Sequence[int], device: Device) -> list[torch.Generator]:
    """Return the dropout generators of ``clients`` for one round."""
    return [gen(seed, "dropout", round, client, device=device) for client in clients]
