"""The trained parameters of many clients in one flat, client-major buffer.

Row c of ``values`` (C, n) holds client c's parameters end to end; every parameter is a strided view (C, *shape).
So one elementwise call steps all optimizers, and clients that have finished drop out by taking the first m rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedloru.errors import ModelError
from fedloru.tree import Params


class Stack:
    """C clients' trained parameters, their gradients, and the views that autograd works on."""

    def __init__(self, starts: Sequence[Params]) -> None:
        first = starts[0]
        dtypes = {value.dtype for value in first.values()}
        if len(dtypes) != 1:
            raise ModelError(f"trained parameters of several dtypes ({sorted(map(str, dtypes))}) do not stack")
        self.shapes = {key: value.shape for key, value in first.items()}
        one = torch.cat([value.detach().flatten() for value in first.values()])
        self.values = one.repeat(len(starts), 1)
        for row, start in zip(self.values[1:], starts[1:], strict=True):
            if start is not first:
                torch.cat([start[key].detach().flatten() for key in self.shapes], out=row)
        self.gradients = torch.zeros_like(self.values)

    def leaves(self, m: int) -> Params:
        """Return views (m, *shape) of the first m clients' parameters, as leaves of a graph."""
        return {key: view.detach().requires_grad_() for key, view in self._views(self.values, m).items()}

    def differentiate(self, loss: Tensor, leaves: Params, m: int) -> None:
        """Write the gradients of ``loss`` to ``gradients``; a parameter that took no part has gradient 0."""
        found: tuple[Tensor | None, ...] = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for view, gradient in zip(self._views(self.gradients, m).values(), found, strict=True):
            if gradient is None:
                view.zero_()
            else:
                view.copy_(gradient)

    def client(self, c: int) -> Params:
        """Return the parameters of client c."""
        return {key: view[0] for key, view in self._views(self.values[c : c + 1], 1).items()}

    def _views(self, flat: Tensor, m: int) -> Params:
        views, at = {}, 0
        for key, shape in self.shapes.items():
            views[key] = flat[:m, at : at + shape.numel()].view(m, *shape)
            at += shape.numel()
        return views


def stack_statistics(starts: Sequence[Params]) -> Params:
    """Return copies of the statistics (C, *shape), one contiguous tensor a key."""
    return {key: torch.stack([start[key].detach() for start in starts]) for key in starts[0]}
