"""Optimizers over stacked parameters (C, *shape), with the formulas of ``torch.optim`` and one row per client.

Moments are stacked in the same way, so a step over the first m rows updates the m clients that are still training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.engine.fused import stack
from fedloru.engine.fused.gradients import Gradient, Outer, dense, norms
from fedloru.engine.fused.local_weight import LocalWeight
from fedloru.own_optimizer import Step, find, stacked
from fedloru.recipe import Recipe
from fedloru.tree import Params


class Optimizer(NamedTuple):
    """SGD with momentum, Adam, AdamW or an own one over stacked parameters, with per-client gradient-norm clipping.

    ``local`` are the weights that update themselves, by SGD. ``kept`` is what an ``own`` optimizer keeps for each key,
    stacked over all clients, and {} before the first step.
    """

    recipe: Recipe
    values: Params
    moments: list[Params]
    local: Mapping[str, LocalWeight] = {}
    own: Step | None = None
    kept: dict[str, Params] = {}

    @classmethod
    def create(cls, recipe: Recipe, values: Params, local: Mapping[str, LocalWeight] | None = None) -> Optimizer:
        """Return an optimizer of ``values`` before its first step."""
        if (own := find(recipe)) is not None:
            return cls(recipe, values, [], local or {}, own, {key: {} for key in values})
        moments = (1 if recipe.momentum else 0) if recipe.optimizer == "sgd" else 2
        zeros = [{key: torch.zeros_like(v) for key, v in values.items()} for _ in range(moments)]
        return cls(recipe, values, zeros, local or {})

    def first(self, m: int) -> Optimizer:
        """Return the optimizer of the first m clients, which shares its values and moments with this one.

        The others have finished: their local weights are not trained any more.
        """
        for weight in self.local.values():
            weight.keep(m)
        return self._replace(
            values=stack.first(self.values, m), moments=[stack.first(each, m) for each in self.moments]
        )

    def step(self, gradients: Mapping[str, Gradient], step: int) -> None:
        """Update all values with ``gradients``, which are not modified and 0 if absent; ``step`` counts from 1."""
        factors = clip_factors(gradients.values(), self.recipe.clip) if self.recipe.clip else None
        for key, weight in self.local.items():
            product = gradients.get(key)
            assert not isinstance(product, Tensor)
            weight.step(product if product is None or factors is None else product.scaled(factors))
        for key, value in self.values.items():
            g = gradients[key] if key in gradients else torch.zeros_like(value)
            moments = [moment[key] for moment in self.moments]
            if self.own is not None:
                self._own(self.own, key, _scaled(g, factors), step)
            elif self.recipe.optimizer == "sgd":
                self._sgd(value, g, factors, moments)
            else:
                mean, square = moments
                self._adam(value, _scaled(g, factors), mean, square, step)

    def _own(self, own: Step, key: str, g: Tensor, step: int) -> None:
        value, kept, m = self.values[key], self.kept[key], len(g)
        new, state = stacked(own, value, g, stack.first(kept, m), self.recipe.rate, step)
        value.copy_(new)
        if not kept:  # all clients take the first step
            kept.update(state)
            return
        for name, each in state.items():
            kept[name][:m] = each

    def _sgd(self, p: Tensor, g: Gradient, factors: Tensor | None, moments: list[Tensor]) -> None:
        r = self.recipe
        if not moments:
            _combine_(p, 1 - r.rate * r.weight_decay, g, factors, -r.rate)
            return
        (velocity,) = moments
        _combine_(velocity, r.momentum, g, factors, 1.0)
        if r.weight_decay:
            velocity.add_(p, alpha=r.weight_decay)
        p.add_(velocity, alpha=-r.rate)

    def _adam(self, p: Tensor, g: Tensor, mean: Tensor, square: Tensor, step: int) -> None:
        r = self.recipe
        if r.weight_decay and r.optimizer == "adamw":
            p.mul_(1 - r.rate * r.weight_decay)
        elif r.weight_decay:
            g = g.add(p, alpha=r.weight_decay)
        mean.lerp_(g, 1 - r.betas[0])
        square.mul_(r.betas[1]).addcmul_(g, g, value=1 - r.betas[1])
        denominator = square.sqrt().div_(math.sqrt(1 - r.betas[1] ** step)).add_(r.eps)
        p.addcdiv_(mean, denominator, value=-r.rate / (1 - r.betas[0] ** step))


def _combine_(t: Tensor, keep: float, g: Gradient, factors: Tensor | None, alpha: float) -> None:
    """Set t (m, …) to keep·t + alpha·factors·g."""
    if isinstance(g, Outer):
        scaled = g if factors is None else g.scaled(factors)
        t.baddbmm_(scaled.g.mT, scaled.x, beta=keep, alpha=alpha)
        return
    if keep != 1:
        t.mul_(keep)
    if factors is None:
        t.add_(g, alpha=alpha)
    else:
        t.addcmul_(g, _per_client(factors, g), value=alpha)


def _scaled(g: Gradient, factors: Tensor | None) -> Tensor:
    one = dense(g)
    return one if factors is None else one * _per_client(factors, one)


def _per_client(factors: Tensor, g: Tensor) -> Tensor:
    return factors.view(-1, *(1 for _ in g.shape[1:])).to(g.dtype)


def clip_factors(gradients: Iterable[Gradient], bound: float) -> Tensor:
    """Return the factor of each client, (m,), by which its gradients together have a norm of at most ``bound``."""
    return (bound / (norms(gradients) + 1e-6)).clamp_(max=1.0)
