"""The sequential engine, the reference of the other engines, against training loops that do not use fedloru."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.recipe import Recipe
from tests.engine.cohort import SIZES, Cohort, fedavg, jobs, near, vectors

# One batch holds all examples of a client, so the order in which they are drawn does not matter.
WHOLE = Recipe(lr=0.2, momentum=0, clip=None, batch_size=max(SIZES), epochs=5)

RECIPES = {
    "sgd": WHOLE,
    "momentum": WHOLE._replace(momentum=0.9),
    "weight decay": WHOLE._replace(weight_decay=0.3),
    "momentum, weight decay": WHOLE._replace(momentum=0.9, weight_decay=0.3),
    "momentum, weight decay, clip": WHOLE._replace(momentum=0.9, weight_decay=0.3, clip=0.1),
    "adam": WHOLE._replace(optimizer="adam", betas=(0.7, 0.95), eps=1e-3),
    "adam, weight decay": WHOLE._replace(optimizer="adam", weight_decay=0.3, betas=(0.7, 0.95), eps=1e-3),
    "adamw": WHOLE._replace(optimizer="adamw", weight_decay=0.3, betas=(0.8, 0.9), eps=1e-2),
}


def linear() -> nn.Module:
    return nn.Linear(6, 3)


def optimizer(recipe: Recipe, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(parameters, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay)


def by_torch_optim(cohort: Cohort, client: int) -> dict[str, Tensor]:
    """Return the parameters of a linear layer after the local training of a client."""
    rows = jobs()[client].rows
    trained = {key: value.clone().requires_grad_() for key, value in cohort.net.params.items()}
    steps = optimizer(cohort.recipe, list(trained.values()))
    for _ in range(cohort.recipe.epochs or 0):
        steps.zero_grad()
        logits = F.linear(cohort.data["x"][rows], trained["weight"], trained["bias"])
        F.cross_entropy(logits, cohort.data["y"][rows]).backward()
        if cohort.recipe.clip is not None:
            nn.utils.clip_grad_norm_(trained.values(), cohort.recipe.clip)
        steps.step()
    return {key: value.detach() for key, value in trained.items()}


def by_formula(cohort: Cohort, client: int) -> dict[str, Tensor]:
    """Return the same for SGD without clipping, v ← μv + g + λw and w ← w − ηv, with g of softmax regression."""
    rows, recipe = jobs()[client].rows, cohort.recipe
    x, targets = cohort.data["x"][rows], F.one_hot(cohort.data["y"][rows], 3).double()
    weights = {key: value.clone() for key, value in cohort.net.params.items()}
    velocity = {key: torch.zeros_like(value) for key, value in weights.items()}
    for _ in range(recipe.epochs or 0):
        error = ((x @ weights["weight"].T + weights["bias"]).softmax(1) - targets) / len(rows)
        for key, gradient in {"weight": error.T @ x, "bias": error.sum(0)}.items():
            velocity[key] = recipe.momentum * velocity[key] + gradient + recipe.weight_decay * weights[key]
            weights[key] = weights[key] - recipe.lr * velocity[key]
    return weights


@pytest.mark.parametrize("name", RECIPES)
def test_local_training_equals_a_loop_with_torch_optim(name: str) -> None:
    cohort = fedavg(linear, vectors(), RECIPES[name])
    ups = cohort.ups("sequential")
    assert ups.keys() == {0, 1, 2, 3}
    assert all(near(up.shared, by_torch_optim(cohort, client), 1e-12) for client, up in ups.items())


@pytest.mark.parametrize("name", ["sgd", "momentum", "weight decay", "momentum, weight decay"])
def test_local_sgd_equals_its_formula(name: str) -> None:
    cohort = fedavg(linear, vectors(), RECIPES[name])
    assert all(near(up.shared, by_formula(cohort, client), 1e-12) for client, up in cohort.ups("sequential").items())


def test_momentum_weight_decay_and_clipping_change_the_result() -> None:
    """So the tests above would fail if the engine ignored one of them."""
    results = [by_torch_optim(fedavg(linear, vectors(), recipe), 0)["weight"] for recipe in RECIPES.values()]
    gaps = [math.dist(x.flatten(), y.flatten()) for k, x in enumerate(results) for y in results[:k]]
    assert min(gaps) > 1e-3
