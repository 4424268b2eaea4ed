"""Propositions about FedLoRU in docs/theory.md, checked against the code."""

from __future__ import annotations

import math

import pytest
import torch

import fedloru as fl
from fedloru import lowrank
from fedloru.analysis.objective import gradient, objective
from fedloru.data import Dataset, Partition


def test_fresh_factors_have_the_moments_of_the_proposition() -> None:
    """4,000 draws of A (3 × 6): E AᵀA = r/(3i)·I within 3 %, E (AᵀA)² = r(i + r − 0.2)/(9i²)·I within 6 %."""
    net = fl.attach(torch.nn.Linear(6, 4), rank=3)
    (site,) = net.sites
    draws = [lowrank.init_factors(net.sites, 0, version, net.params)[site.a].double() for version in range(4000)]
    product = torch.stack([a.T @ a for a in draws])
    mean, square = product.mean(0), (product @ product).mean(0)
    identity = torch.eye(6, dtype=torch.float64)
    assert float((mean / (3 / 18) - identity).abs().max()) < 0.03
    assert float((square / (3 * (6 + 3 - 0.2) / (9 * 36)) - identity).abs().max()) < 0.06


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_round_of_one_step_is_a_step_down_a_sketched_gradient(scale: float) -> None:
    """With τ = 1, one full-batch local step, and clients of equal size, a round gives W − η s² ∇f(W) AᵀA."""
    g = torch.Generator().manual_seed(0)
    data = {"x": torch.randn(12, 6, generator=g), "y": torch.arange(12) % 4}
    dataset = Dataset("made", data, data, ("a", "b", "c", "d"))
    partition = Partition("made", 0, tuple(torch.arange(12).split(4)), (), {})
    torch.manual_seed(0)
    net = fl.attach(torch.nn.Linear(6, 4, bias=False), rank=2, alpha=2 * scale)
    (site,) = net.sites
    recipe = fl.Recipe(lr=0.3, momentum=0, clip=None, schedule="constant", steps=1, batch_size=4)
    run = fl.run(net, fl.fedloru(recipe="paper", tau=1), dataset, partition, rounds=3, cohort=3, recipe=recipe)
    for _ in range(3):
        before = run.tensors
        step = gradient(objective(net, before, data))["weight"].double()
        next(iter(run))
        a = before[site.a].double()
        expected = before["weight"].double() - 0.3 * scale**2 * step @ a.T @ a
        torch.testing.assert_close(run.tensors["weight"].double(), expected, atol=1e-6, rtol=1e-5)
        assert math.isclose(float(run.tensors[site.b].abs().max()), 0)
