"""The rounds with diagnostics: a share of the estimated work, the same in every run of a plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fedloru as fl
from fedloru.errors import ModelError
from fedloru.methods import fedavg, fedlora, fedloru
from fedloru.run import budget
from fedloru.run.budget import interval, is_diagnosed
from fedloru.run.diagnostics import UpdateStatistics
from fedloru.run.plan import Plan


def made(method: fl.methods.Method, hidden: int = 40, **settings: Any) -> Plan:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 30, generator=g), torch.arange(60) % 2
    data = fl.data.Dataset("points", {"x": x, "y": y}, {"x": x[:20], "y": y[:20]}, ("a", "b"))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 2))
    net = fl.attach(model, rank=2, targets=["0"]) if method.traits.low_rank else fl.make(model)
    return Plan(net, method, data, fl.data.iid(data, clients=3), **{"rounds": 30, "cohort": 2, **settings})


def every(plan: Plan) -> int:
    return interval(plan, plan.method.init(plan.net, 0))


def test_the_interval_follows_from_the_work() -> None:
    """A forward pass has 30·40 + 40·2 products; each of 2 clients trains 20 examples in 2 steps, and 20 are tested."""
    products = 30 * 40 + 40 * 2
    trained = 3 * 40 * products + 100 * budget.OPERATION * (2 + 2) + 20 * products
    factors = 2 * (30 + 40)
    others = 40 + 40 * 2 + 2
    low_rank = 20 * 2 * (factors + others) + 140 * budget.OPERATION + 8 * 16 * 70 + 2 * 4 * 4 * 70
    assert every(made(fedlora())) == -(-low_rank // (budget.SHARE * trained))
    merging = low_rank + 2 * 30**2 * 40 + 7 * 30**3 + 1000 * products
    assert every(made(fedloru(tau=2))) == -(-merging // (budget.SHARE * trained)) > every(made(fedlora()))


def test_more_work_per_round_means_more_diagnostics() -> None:
    assert every(made(fedavg(), recipe=fl.Recipe(epochs=500))) < every(made(fedavg()))
    assert every(made(fedavg(), diagnostics_every=3)) == 3


def test_one_round_of_each_interval_is_chosen_and_merges_have_precedence() -> None:
    def chosen(method: fl.methods.Method, every: int, rounds: int = 11) -> list[int]:
        plan = made(method, rounds=rounds)
        return [t for t in range(1, rounds + 1) if is_diagnosed(plan, every, t)]

    assert chosen(fedlora(), 4) == [4, 8, 11]
    assert chosen(fedloru(tau=3), 4) == [3, 6, 9]
    assert chosen(fedloru(tau=[5, 6]), 4) == [4, 6, 11]
    assert chosen(fedloru(tau=2), 1) == list(range(1, 12))
    assert chosen(fedavg(), 100) == [11]
    assert not any(is_diagnosed(made(fedlora(), diagnostics=False), 1, t) for t in range(1, 12))


def test_diagnostics_are_computed_in_no_other_round(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    add = UpdateStatistics.add
    monkeypatch.setattr(UpdateStatistics, "add", lambda self, *a: calls.append(1) or add(self, *a))
    plan = made(fedloru(tau=2), rounds=5, diagnostics_every=2, chunk=2)
    rows = list(fl.Run(plan))
    assert len(calls) == 3
    assert [bool(row["sites"]) for row in rows] == [False, True, False, True, True]
    assert ["loss_before_merge" in row["diagnostics"] for row in rows] == [False, True, False, True, False]


def test_recorded_values_do_not_depend_on_the_interval() -> None:
    rows = [list(fl.Run(made(fedloru(tau=2), rounds=6, diagnostics_every=n))) for n in (1, 3)]
    for all_, some in zip(*rows, strict=True):
        assert some["sites"] in ({}, all_["sites"]) and some["test_loss"] == all_["test_loss"]
    assert sum(bool(row["sites"]) for row in rows[1]) == 2


def test_a_model_that_fails_on_the_test_examples_is_reported() -> None:
    plan = made(fedavg())
    wrong = plan.dataset._replace(test={"x": torch.zeros(3, 7), "y": torch.zeros(3, dtype=torch.int64)})
    with pytest.raises(ModelError, match="cannot be evaluated on test examples 0"):
        every(plan.replace(dataset=wrong))
