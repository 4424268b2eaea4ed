"""Gradients of stacked parameters (m, *shape), some of which are kept as the product that they are.

The gradient of a linear layer's weight is gᵀx, for the gradients g (m, n, o) at its outputs and its inputs x (m, n, i).
For a small batch it is much larger than g and x, so an optimizer that adds gᵀx to a weight or a moment in one product
saves most of the memory traffic of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


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
        if self.x.shape[1] > largest_rank(self.g.shape[2], self.x.shape[2]):
            return self.dense().square().sum((1, 2))
        return (torch.bmm(self.g, self.g.mT) * torch.bmm(self.x, self.x.mT)).sum((1, 2)).clamp(min=0)

    def scaled(self, factors: Tensor) -> Outer:
        """Return the gradient multiplied by the factor of each client, (m,)."""
        return Outer(self.g * factors.view(-1, 1, 1), self.x)


Gradient = Tensor | Outer
Sinks = dict[str, list[Outer]]
"""The products that a backward pass has added, one for each call of a layer, by the key of the weight."""


def dense(gradient: Gradient) -> Tensor:
    """Return a gradient as one tensor."""
    return gradient.dense() if isinstance(gradient, Outer) else gradient


def largest_rank(o: int, i: int) -> int:
    """Return the number of rows up to which g and x are not larger than the gradient of a weight (o, i)."""
    return o * i // (o + i)


def collected(found: Mapping[str, Tensor | None], sinks: Sinks) -> dict[str, Gradient]:
    """Return all gradients, from what autograd has ``found`` and from the products in ``sinks``; those of 0 are absent.

    The sum of products is the product of their rows in sequence.
    """
    gradients: dict[str, Gradient] = {key: g for key, g in found.items() if g is not None}
    for key, outers in sinks.items():
        if outers:
            product = Outer(*(torch.cat(rows, 1) if len(rows) > 1 else rows[0] for rows in zip(*outers, strict=True)))
            gradients[key] = dense(gradients[key]) + product.dense() if key in gradients else product
    return gradients


def norms(gradients: Iterable[Gradient]) -> Tensor:
    """Return the norm of all gradients of each client, (m,)."""
    squares = [
        g.squares() if isinstance(g, Outer) else torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1).square()
        for g in gradients
    ]
    return torch.stack(squares).sum(0).sqrt()
