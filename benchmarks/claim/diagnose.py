"""Part (d): the rank of what a run has learned, and how much of the dense gradient a method follows.

For a loss with the gradient G in the dense weights, a step of SGD at rate 1 in the trained tensors changes the dense
weights by -D to first order. For factors, D = s²(B Bᵀ G + G Aᵀ A). The gain is <D, G> / ||G||², the decrease of the
loss relative to dense training at the same rate. With J the derivative of the dense weights by the trained tensors,
D = J Jᵀ G, so <D, G> = ||Jᵀ G||² is the squared norm of the gradient in the trained tensors, which autograd returns
for every method.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedloru import lowrank
from fedloru import net as nets
from fedloru.evaluate import shared_model
from fedloru.lowrank import spectra
from fedloru.method import Method, State
from fedloru.net import Net
from fedloru.run.loop import Run
from fedloru.tree import Params

BATCH = 512
"""The training examples on which the gain is computed, the same in every round."""
FLOOR = 1e-3
"""Singular values above this part of the largest one count for the numerical rank."""


class Observer:
    """Follows a run from its start: the gain after every round, and in the end the ranks of W_T − W₀."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.first = dict(run.model().named_parameters())
        self.batch = {key: value[:BATCH] for key, value in run.plan.dataset.train.items()}
        self.gains = [self._gain()]

    def after_round(self) -> None:
        """Compute the gain at the state after a round."""
        self.gains.append(self._gain())

    def results(self) -> dict[str, Any]:
        """Return the gains, the first at the initial state, and the ranks by the name of the weight."""
        last = dict(self.run.model().named_parameters())
        changes = {name: last[name] - before for name, before in self.first.items() if before.ndim > 1}
        return {"gains": self.gains, "ranks": {name: ranks(change.detach()) for name, change in changes.items()}}

    def _gain(self) -> float:
        plan = self.run.plan
        return float(f"{gain(plan.net, plan.method, self.run.state, self.batch):.4g}")


def ranks(change: Tensor) -> dict[str, float]:
    """Return the numerical, the stable and the effective rank of a change of a weight (o, …)."""
    sigma = torch.linalg.svdvals(change.double().flatten(1))
    numerical = int((sigma > FLOOR * sigma.max()).sum())
    return {"numerical": numerical, "full": len(sigma)} | {k: round(v, 2) for k, v in spectra.ranks(sigma).items()}


def gain(net: Net, method: Method, state: State, batch: nets.Batch) -> float:
    """Return <D, G> / ||G||² over the weights of all sites; 1 for a net without sites, whose weights are trained.

    The clients of the next round start from ``state``. ``batch`` are examples, as tensors with one row per example.
    """
    if not net.sites:
        return 1.0
    dense = _dense_gradient(net, shared_model(net, method, state), batch)
    return _trained_gradient(net, method, state, batch) / dense


def _dense_gradient(net: Net, tensors: Params, batch: nets.Batch) -> float:
    """Return ||G||², with the factors merged into weights that have a gradient."""
    merged = lowrank.merge(net.sites, tensors, tensors)
    idle = {key: torch.zeros_like(tensors[key]) for site in net.sites for key in site.keys}
    leaves = {site.weight: merged[site.weight].detach().requires_grad_() for site in net.sites}
    return _squared_gradient(net, merged | idle | leaves, leaves, batch)


def _trained_gradient(net: Net, method: Method, state: State, batch: nets.Batch) -> float:
    """Return ||JᵀG||²: the squared norm of the gradient in the tensors that clients train for the sites."""
    down = method.down(net, state, ())
    train = method.begin(net, down, {}, ())
    phases = method.phases(net, train) if method.phases else ()
    trained = frozenset[str]().union(*(phase.keys for phase in phases)) if phases else train.keys() - net.buffers.keys()
    own = trained - (net.trainable - net.factors - {site.weight for site in net.sites})
    leaves = {key: train[key].detach().requires_grad_() for key in sorted(own)}
    start = train | leaves
    tensors = start if method.expand is None else method.expand(net, start, down)
    return _squared_gradient(net, nets.constants(net, state.base) | tensors, leaves, batch)


def _squared_gradient(net: Net, tensors: Params, leaves: Params, batch: nets.Batch) -> float:
    with nets.mode(net, training=False), torch.enable_grad():
        loss = nets.losses(net, tensors, batch).mean()
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return sum(float(each.square().sum()) for each in filter(torch.is_tensor, gradients))
