from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fedloru as fl
from fedloru import own_optimizer
from fedloru.client import build_optimizer
from fedloru.config import load, plan
from fedloru.errors import ConfigError, FedloruError, ModelError
from fedloru.recipe import Recipe, at_round
from fedloru.tree import Params

HERE = f"python:{__name__}:"


def momentum(value: Tensor, gradient: Tensor, state: Params, lr: float, step: int) -> tuple[Tensor, Params]:
    velocity = 0.9 * state.get("velocity", 0) + gradient
    return value - lr * velocity, {"velocity": velocity}


def branching(value: Tensor, gradient: Tensor, state: Params, lr: float, step: int) -> tuple[Tensor, Params]:
    return (value - lr * gradient if float(gradient.sum()) > 0 else value), {}


def bare(value: Tensor, gradient: Tensor, state: Params, lr: float, step: int) -> Any:
    return value - lr * gradient


def wide(value: Tensor, gradient: Tensor, state: Params, lr: float, step: int) -> Any:
    return (value - lr * gradient).double(), {}


def counting(value: Tensor, gradient: Tensor, state: Params, lr: float, step: int) -> Any:
    return value, {"steps": step}


def failing(value: Tensor, gradient: Tensor, state: Params, lr: float, step: int) -> Any:
    raise KeyError("width")


def exploding(value: Tensor, gradient: Tensor, state: Params, lr: float, step: int) -> Any:
    return value / 0, {}


def warmup(round: int, rounds: int) -> float:
    return min(1.0, round / 3)


def negative(round: int, rounds: int) -> float:
    return 1.5 - round


def words(round: int, rounds: int) -> str:
    return "fast"


def test_an_optimizer_of_yours_is_one_of_torch() -> None:
    start, gradients = torch.randn(3, 2), torch.randn(4, 3, 2)
    ends = []
    for recipe in (Recipe("sgd", lr=0.1, momentum=0.9), Recipe(f"{HERE}momentum", lr=0.1)):
        leaf = start.clone().requires_grad_()
        optimizer = build_optimizer(recipe, [leaf])
        for gradient in gradients:
            leaf.grad = gradient.clone()
            optimizer.step()
        ends.append(leaf.detach())
    torch.testing.assert_close(*ends)


def made(**settings: Any) -> Any:
    data = fl.data.synthetic(200, (8,), 3, seed=1)
    net = fl.attach(fl.models.build("mlp", channels=8, size=1, classes=3, seed=0), rank=2, targets=["fc1"])
    engine = settings.pop("engine", "auto")
    return fl.run(
        net, fl.fedloru(tau=2), data, fl.data.iid(data, 4), rounds=3, cohort=3, engine=engine, recipe=Recipe(**settings)
    )


def test_it_trains_as_the_built_in_one_with_every_engine() -> None:
    expected = list(made(lr=0.1, clip=1.0))
    for engine in ("sequential", "fused"):
        rows = list(made(optimizer=f"{HERE}momentum", lr=0.1, clip=1.0, engine=engine))
        assert [row["test_loss"] for row in rows] == pytest.approx([row["test_loss"] for row in expected], rel=1e-4)


def test_what_cannot_be_vmapped_is_trained_one_after_another(caplog: pytest.LogCaptureFixture) -> None:
    run = made(optimizer=f"{HERE}branching", lr=0.1)
    assert run.engine.name == "sequential" and "branching does not run under torch.func.vmap" in run.engine.reason
    assert "the optimizer branching does not run" in caplog.text
    with pytest.raises(ModelError, match="cannot run this model: the optimizer branching"):
        made(optimizer=f"{HERE}branching", engine="fused")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bare", r"the optimizer bare returned a Tensor, expected a pair of a tensor and a dict: return \(new value"),
        ("wide", r"returned a value of torch.float64 and shape \(2, 3\) for one of torch.float32"),
        ("counting", "returned a state that is not a dict of tensors"),
        ("failing", "failing failed: KeyError: 'width'"),
        ("exploding", "not finite after two steps"),
        ("nothing", "has no function nothing"),
    ],
)
def test_it_is_tried_out_before_the_run(name: str, message: str) -> None:
    with pytest.raises(FedloruError, match=message):
        plan(load("small", [f"client.optimizer={HERE}{name}"]))


def test_settings_that_it_does_not_use_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"client\.momentum is 0\.5, but client.* does not use it"):
        load("small", [f"client.optimizer={HERE}momentum", "client.momentum=0.5"])
    with pytest.raises(ConfigError, match="an optimizer of yours does not use it"):
        made(optimizer=f"{HERE}momentum", weight_decay=0.1)
    assert Recipe(f"{HERE}momentum").rate == 1e-3


def test_a_schedule_of_yours() -> None:
    recipe = Recipe(lr=0.3, schedule=f"{HERE}warmup")
    assert [at_round(recipe, round, 5).rate for round in (1, 2, 3, 5)] == pytest.approx([0.1, 0.2, 0.3, 0.3])
    assert [row["lr"] for row in made(lr=0.3, schedule=f"{HERE}warmup")] == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("negative", r"negative returned -1.5 for round 3 of 3, expected a factor >= 0"),
        ("words", "words returned 'fast' for round 1 of 3"),
        ("nothing", "has no function nothing"),
    ],
)
def test_schedules_are_checked_before_the_run(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(schedule=f"{HERE}{name}")


def test_built_in_optimizers_need_no_trial() -> None:
    assert own_optimizer.problem(Recipe()) is None and own_optimizer.find(Recipe()) is None
