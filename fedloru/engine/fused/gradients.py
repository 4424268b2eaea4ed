"""Gradients of stacked parameters (m, *shape), some of which are kept as the product that they are.

The gradient of a linear layer's weight is gᵀx, for the gradients g (m, n, o) at its outputs and its inputs x (m, n, i).
For a small batch it is much larger than g and x, so an optimizer that adds gᵀx to a weight or a moment in one product
saves most of the memory traffic of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.tree import Params


class Outer(NamedTuple):
    """The gradient gᵀx (m, o, i) of a stacked weight, from g (m, n, o) and x (m, n, i)."""

    g: Tensor
    x: Tensor

    def dense(self) -> Tensor:
        """Return gᵀx."""
        return torch.bmm(self.g.mT, self.x)

    def squares(self) -> Tensor:
        """Return ‖gᵀx‖² of each client, (m,), from the Gram matrices ggᵀ and xxᵀ unless these are large.

        Rounding is relative to the sum of the norms of the examples' gradients, as in the sum itself.
        """
        if not is_worthwhile(self.x.shape[1], self.g.shape[2], self.x.shape[2]):
            return self.dense().square().sum((1, 2))
        return (torch.bmm(self.g, self.g.mT) * torch.bmm(self.x, self.x.mT)).sum((1, 2)).clamp(min=0)

    def scaled(self, factors: Tensor) -> Outer:
        """Return the gradient multiplied by the factor of each client, (m,)."""
        return Outer(self.g * factors.view(-1, 1, 1), self.x)


Gradient = Tensor | Outer
Sinks = dict[str, list[Outer]]
"""The products of a backward pass, by the key of their weight."""


def dense(gradient: Gradient) -> Tensor:
    """Return a gradient as one tensor."""
    return gradient.dense() if isinstance(gradient, Outer) else gradient


def is_worthwhile(rows: int, o: int, i: int) -> bool:
    """Return whether ``rows`` examples of g and x are smaller than the gradient of a weight (o, i)."""
    return rows * (o + i) <= o * i


def collected(found: Mapping[str, Tensor | None], sinks: Sinks, leaves: Params) -> dict[str, Gradient]:
    """Return the gradient of every leaf, from what autograd has ``found`` and from the products in ``sinks``."""
    return {key: _total(found[key], sinks.get(key, ()), leaf) for key, leaf in leaves.items()}


def _total(found: Tensor | None, outers: Sequence[Outer], leaf: Tensor) -> Gradient:
    if found is None and len(outers) == 1:
        return outers[0]
    total = torch.zeros_like(leaf) if found is None else found
    for outer in outers:  # a weight that several layers share
        total = total + outer.dense()
    return total


def norms(gradients: Iterable[Gradient]) -> Tensor:
    """Return the norm of all gradients of each client, (m,)."""
    squares = [
        g.squares() if isinstance(g, Outer) else torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1).square()
        for g in gradients
    ]
    return torch.stack(squares).sum(0).sqrt()
