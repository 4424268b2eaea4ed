"""Optimizers over the flat client-major buffer: ``torch.optim``'s formulas, one row a client.

A client's moments are rows too, so a step over the first m rows is a step of the m clients still training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedloru.recipe import Recipe


class Optimizer:
    """SGD with momentum, Adam or AdamW over (C, n), with gradient-norm clipping per client."""

    def __init__(self, recipe: Recipe, values: Tensor, gradients: Tensor) -> None:
        self.recipe, self.values, self.gradients = recipe, values, gradients
        moments = {"sgd": 1 if recipe.momentum else 0}.get(recipe.optimizer, 2)
        self.moments = [torch.zeros_like(values) for _ in range(moments)]

    def step(self, m: int, step: int) -> None:
        """Step the first m clients; ``step`` counts from 1."""
        p, g = self.values[:m], self.gradients[:m]
        if self.recipe.clip is not None:
            norms = torch.linalg.vector_norm(g, dim=1, keepdim=True)
            g.mul_((self.recipe.clip / (norms + 1e-6)).clamp_(max=1.0))
        if self.recipe.optimizer == "sgd":
            self._sgd(p, g, m)
        else:
            self._adam(p, g, m, step)

    def _sgd(self, p: Tensor, g: Tensor, m: int) -> None:
        if self.recipe.weight_decay:
            g.add_(p, alpha=self.recipe.weight_decay)
        if self.recipe.momentum:
            g = self.moments[0][:m].mul_(self.recipe.momentum).add_(g)
        p.add_(g, alpha=-self.recipe.lr)

    def _adam(self, p: Tensor, g: Tensor, m: int, step: int) -> None:
        r = self.recipe
        if r.weight_decay and r.optimizer == "adamw":
            p.mul_(1 - r.lr * r.weight_decay)
        elif r.weight_decay:
            g.add_(p, alpha=r.weight_decay)
        first, second = self.moments[0][:m], self.moments[1][:m]
        first.lerp_(g, 1 - r.betas[0])
        second.mul_(r.betas[1]).addcmul_(g, g, value=1 - r.betas[1])
        denominator = second.sqrt().div_(math.sqrt(1 - r.betas[1] ** step)).add_(r.eps)
        p.addcdiv_(first, denominator, value=-r.lr / (1 - r.betas[0] ** step))
