"""The parts of a run print a line each, whatever their size, and remain values that can be compared and changed."""

from __future__ import annotations

import dataclasses

import torch

import fedloru as fl
from fedloru.data import Dataset, Partition


def _parts() -> dict[str, object]:
    x, y = torch.randn(40, 1, 4, 4), torch.arange(40) % 2
    data = Dataset("mine", {"x": x, "y": y}, {"x": x[:9], "y": y[:9]}, ("cat", "dog"), {"site": ["a"] * 40})
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.Linear(8, 2))
    net = fl.attach(model, rank=2, targets=["1"])
    clients = fl.data.iid(data, clients=3, test_fraction=0.2)
    run = fl.run(net, fl.prox(fl.fedloru(tau=5), mu=0.1), data, clients, rounds=2, cohort=2)
    next(iter(run))
    return {
        "data": data,
        "partition": clients,
        "net": net,
        "method": run.plan.method,
        "recipe": fl.Recipe(lr=0.1, steps=3),
        "plan": run.plan,
        "run": run,
        "state": run.state,
    }


def test_every_part_prints_a_short_line() -> None:
    shown = {name: repr(part) for name, part in _parts().items()}
    assert all(len(line) < 250 and "\n" not in line for line in shown.values())
    assert shown["data"] == (
        "Dataset('mine', 40 training and 9 test examples of shape (1, 4, 4), 2 classes, columns 'site')"
    )
    assert shown["partition"] == "Partition('iid', 3 clients with 10 to 11 training and 3 test examples each)"
    assert shown["net"] == "Net(Sequential, 1 low-rank layer, rank 2, 154 parameters, 74 trainable)"
    assert shown["method"].startswith("prox(fedloru(") and shown["method"].endswith("), mu=0.1)")
    assert "tau=5" in shown["method"]
    assert shown["recipe"] == "Recipe(lr=0.1, steps=3)"
    assert shown["plan"] == "Plan(fedloru on 'mine', 3 clients, 2 per round, seed 0, 2 rounds)"
    assert shown["run"].startswith("Run(fedloru on 'mine', 3 clients, 2 per round, seed 0, round 1 of 2, loss 0.")
    assert shown["state"].startswith("State(round 1, version 0, ")


def test_the_printed_recipe_and_method_are_the_calls_that_make_them() -> None:
    parts = _parts()
    names = {"Recipe": fl.Recipe, "prox": fl.prox, "fedloru": fl.fedloru}
    assert eval(repr(parts["recipe"]), names) == parts["recipe"]
    made, method = eval(repr(parts["method"]), names), parts["method"]
    assert isinstance(method, fl.Method) and made.config == method.config


def test_values_can_still_be_compared_and_changed() -> None:
    recipe = fl.Recipe(lr=0.1)
    assert recipe == fl.Recipe(lr=0.1) and recipe._replace(lr=0.2).lr == 0.2 and repr(fl.Recipe()) == "Recipe()"
    plan = _parts()["plan"]
    assert dataclasses.replace(plan, rounds=7).rounds == 7  # type: ignore[type-var]


def test_empty_and_replaced_parts_can_be_printed() -> None:
    empty = Dataset("", {}, {}, ())
    assert repr(empty) == "Dataset('', 0 training and 0 test examples)"
    assert repr(empty._replace(train={"x": [1, 2]})) == "Dataset('', 2 training and 0 test examples of 'x')"
    assert repr(Partition("none", 0, (), (), {})) == "Partition('none', 0 clients with 0 training examples each)"
    assert repr(fl.make(torch.nn.Linear(2, 1))) == "Net(Linear, 0 low-rank layers, no rank, 3 parameters, 3 trainable)"
    assert "0 parameters, 0 trainable" in repr(fl.make(torch.nn.Linear(2, 1))._replace(params={}))
