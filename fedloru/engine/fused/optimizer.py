"""Optimizers over stacked parameters (C, *shape), with the formulas of ``torch.optim`` and one row per client.

Moments are stacked in the same way, so a step over the first m rows updates the m clients that are still training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedloru.engine.fused.stack import first
from fedloru.recipe import Recipe
from fedloru.tree import Params


class Optimizer:
    """SGD with momentum, Adam or AdamW over stacked parameters, with per-client gradient-norm clipping."""

    def __init__(self, recipe: Recipe, values: Params) -> None:
        self.recipe, self.values = recipe, values
        moments = (1 if recipe.momentum else 0) if recipe.optimizer == "sgd" else 2
        self.moments = [{key: torch.zeros_like(v) for key, v in values.items()} for _ in range(moments)]

    def step(self, gradients: Params, step: int) -> None:
        """Update the first m clients with ``gradients`` (m, *shape), which are overwritten; ``step`` counts from 1."""
        m = len(next(iter(gradients.values())))
        if self.recipe.clip:
            clip_(gradients, self.recipe.clip)
        values, moments = first(self.values, m), [first(moment, m) for moment in self.moments]
        for key, g in gradients.items():
            if self.recipe.optimizer == "sgd":
                self._sgd(values[key], g, [moment[key] for moment in moments])
            else:
                mean, square = (moment[key] for moment in moments)
                self._adam(values[key], g, mean, square, step)

    def _sgd(self, p: Tensor, g: Tensor, moments: list[Tensor]) -> None:
        if self.recipe.weight_decay:
            g.add_(p, alpha=self.recipe.weight_decay)
        for velocity in moments:
            g = velocity.mul_(self.recipe.momentum).add_(g)
        p.add_(g, alpha=-self.recipe.rate)

    def _adam(self, p: Tensor, g: Tensor, mean: Tensor, square: Tensor, step: int) -> None:
        r = self.recipe
        if r.weight_decay and r.optimizer == "adamw":
            p.mul_(1 - r.rate * r.weight_decay)
        elif r.weight_decay:
            g.add_(p, alpha=r.weight_decay)
        mean.lerp_(g, 1 - r.betas[0])
        square.mul_(r.betas[1]).addcmul_(g, g, value=1 - r.betas[1])
        denominator = square.sqrt().div_(math.sqrt(1 - r.betas[1] ** step)).add_(r.eps)
        p.addcdiv_(mean, denominator, value=-r.rate / (1 - r.betas[0] ** step))


def clip_(gradients: Params, bound: float) -> None:
    """Clip each client's gradients (m, *shape), in place, to a norm of at most ``bound`` over all keys."""
    squares = [g.reshape(len(g), -1).square().sum(1) for g in gradients.values()]
    norms = torch.stack(squares).sum(0).sqrt()
    factors = (bound / (norms + 1e-6)).clamp_(max=1.0)
    for g in gradients.values():
        g.mul_(factors.view(-1, *(1 for _ in g.shape[1:])).to(g.dtype))
