"""Robust aggregation in runs: what a plan may have, an attack, resuming, and batch statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fedloru as fl
from fedloru import methods, tree
from fedloru.data import Dataset, Partition
from fedloru.errors import ConfigError
from fedloru.method import Down, Method, State, Total, Up
from fedloru.methods.ranks import with_rank
from fedloru.run.folder import RunFolder
from fedloru.run.plan import Plan
from tests.laws.cases import world
from tests.methods.cohort import close, mean, run_rounds, small_net


def plan_of(method: Method, **settings: Any) -> Plan:
    cell = world("fedloru", "mlp", torch.float32)
    dataset = Dataset("table", cell.data, cell.data, ("a", "b", "c", "d"))
    partition = Partition("table", 0, tuple(job.rows for job in cell.jobs), (), {})
    return Plan(cell.net, method, dataset, partition, **{"rounds": 3, "cohort": 4, **settings})


def test_what_a_plan_cannot_have() -> None:
    profiles = ((), with_rank(1), (), with_rank(1))
    median = methods.robust(methods.mfedloru(tau=2), rule="median")
    with pytest.raises(ConfigError, match="no coordinates in common"):
        fl.Run(plan_of(median, profiles=profiles))
    assert fl.Run(plan_of(median)).state.round == 0
    with pytest.raises(ConfigError, match=r"2 of 2 clients have none: raise cohort\.size to 3"):
        fl.Run(plan_of(median, cohort=2))
    limited = methods.robust(methods.mfedloru(tau=2), max_norm=1.0)
    with pytest.raises(ConfigError, match="in another form than they receive it"):
        fl.Run(plan_of(limited, profiles=profiles))
    stacking = methods.robust(methods.flora(), max_norm=0.1)
    assert len(list(fl.Run(plan_of(stacking, profiles=profiles)))) == 3


def sends_garbage(method: Method, weight: float, scale: float) -> Method:
    """Return ``method`` whose client with ``weight`` examples sends its update times ``scale``."""

    def reduce(net: Any, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
        def sent(up: Up, w: float) -> Up:
            if w != weight:
                return up
            change = tree.scale(tree.sub(up.shared, down.shared), scale)
            return up._replace(shared=tree.add(tree.select(down.shared, up.shared), change))

        return method.reduce(net, state, down, [sent(up, w) for up, w in zip(ups, weights, strict=True)], weights)

    return method._replace(reduce=reduce)


def accuracy(method: Method, scale: float) -> float:
    """Return the accuracy on digits after 4 rounds of ten clients, one of which multiplies its update by ``scale``."""
    digits = fl.data.load("digits")
    clients = fl.data.dirichlet(digits, clients=10, alpha=1.0, seed=1)
    liar = max(map(len, clients.train))
    model = fl.models.build("mlp", channels=1, size=8, classes=10, seed=0)
    net = fl.attach(model, rank=4, targets=["fc1"]) if method.traits.low_rank else fl.make(model)
    made = sends_garbage(method, liar, scale)
    run = fl.run(net, made, digits, clients, rounds=4, cohort=10, eval_every=4, diagnostics=False)
    return float([row["test_accuracy"] for row in run][-1])


DEFENCES: dict[str, dict[str, Any]] = {
    "median": {"rule": "median"},
    "trimmed mean": {"rule": "trimmed_mean", "trim": 0.1},
    "clipped mean": {"max_norm": 1.0},
}


@pytest.mark.parametrize("inner", [methods.fedavg(), methods.fedloru(recipe="paper", tau=4)], ids=lambda m: m.name)
def test_one_client_of_ten_with_a_scaled_update_ruins_the_mean_only(inner: Method) -> None:
    honest, attacked = accuracy(inner, 1.0), accuracy(inner, -20.0)
    assert honest > 0.85 and attacked < 0.3
    for name, setting in DEFENCES.items():
        assert accuracy(methods.robust(inner, **setting), -20.0) > honest - 0.15, name


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    method = methods.robust(methods.fedloru(recipe="paper", tau=2), rule="median", max_norm=0.5)
    whole = fl.Run(plan_of(method, checkpoint_every=1))
    rows = list(whole)
    folder = RunFolder.create(tmp_path / "run", {"name": "table"}, {})
    for _ in fl.Run(plan_of(method, checkpoint_every=1), folder):
        break
    again = RunFolder.open(tmp_path / "run")
    resumed = fl.Run(plan_of(method, checkpoint_every=1), again, again.latest("cpu"))
    assert [row["test_loss"] for row in resumed] == [row["test_loss"] for row in rows[1:]]
    assert all(tree.equal(x, y) for x, y in zip(resumed.state[3:7], whole.state[3:7], strict=True))


def test_batch_norm_keeps_positive_variances() -> None:
    net = small_net()
    method = methods.robust(methods.fedavg(), rule="median", max_norm=0.01)
    assert isinstance(net.model[1], nn.BatchNorm2d)
    for before, _, after in run_rounds(net, method, 3):
        variance = "1.running_var"
        assert (
            bool((after.shared[variance] > 0).all()) and after.shared[variance].dtype == before.shared[variance].dtype
        )
    assert not close(after.shared, mean([Up(before.shared)] * 3))
