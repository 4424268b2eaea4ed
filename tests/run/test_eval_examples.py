"""``eval_examples`` bounds the test sets: a fixed subset, the same in every round and after resuming."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fedloru as fl
from fedloru.evaluate import evaluate
from fedloru.run import record, sampling, simulation
from fedloru.run.plan import Plan


def made(tests: int = 40, **settings: Any) -> Plan:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 4, generator=g), torch.arange(60) % 2
    held = {"x": torch.randn(tests, 4, generator=g), "y": torch.arange(tests) % 2}
    data = fl.data.Dataset("points", {"x": x, "y": y}, held, ("a", "b"))
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    partition = fl.data.iid(data, clients=3, test_fraction=0.5)
    return Plan(
        fl.attach(model, rank=2),
        fl.fedloru(recipe="paper", tau=2),
        data,
        partition,
        **{"rounds": 3, "cohort": 2, **settings},
    )


def used(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> list[list[int]]:
    """Return the rows of the test set that every round of a run uses."""
    seen: list[list[int]] = []

    def spied(net: Any, tensors: Any, data: Any, *args: Any, rows: Any = None, **others: Any) -> Any:
        seen.append([] if rows is None else rows.tolist())
        return evaluate(net, tensors, data, *args, rows=rows, **others)

    monkeypatch.setattr(record, "evaluate", spied)
    list(fl.run(**{name: getattr(plan, name) for name in plan.__dataclass_fields__}))
    return seen


def test_every_round_uses_the_same_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = made(eval_examples=10)
    first, *others = used(monkeypatch, plan)
    assert len(first) == len(set(first)) == 10 and set(first) <= set(range(40)) and first == sorted(first)
    assert all(rows == first for rows in others) and len(others) >= 3, "a merge is scored on them, too"
    assert used(monkeypatch, made(eval_examples=10))[0] == first != used(monkeypatch, made(eval_examples=10, seed=1))[0]


def test_scores_are_those_of_the_subset() -> None:
    plan = made(eval_examples=10)
    (*_, row) = list(
        run := fl.run(plan.net, plan.method, plan.dataset, plan.partition, rounds=3, cohort=2, eval_examples=10)
    )
    rows = sampling.tested(plan, 40)
    subset = {key: value[rows] for key, value in plan.dataset.test.items()}
    score = evaluate(run.plan.net, run.tensors, subset)
    assert (row["test_loss"], row["test_accuracy"]) == pytest.approx((score.loss, score.accuracy))
    assert (run.summary()["test_examples"], run.summary()["all_test_examples"]) == (10, 40)


def test_by_default_and_beyond_the_size_all_are_used() -> None:
    assert sampling.tested(made(), 40) is None and sampling.test_sizes(made()) == (40, 40)
    assert sampling.tested(made(eval_examples=40), 40) is None
    assert sampling.test_sizes(made(eval_examples=1000)) == (40, 40)
    assert sampling.test_sizes(made(eval_examples=1)) == (1, 40)


def test_the_tests_of_every_client_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    scores = simulation.personal_scores
    monkeypatch.setattr(
        simulation, "personal_scores", lambda *a: sizes.extend(len(rows) for _, rows, _ in a[4]) or scores(*a)
    )
    plan = made(eval_examples=4, rounds=1)
    list(fl.run(**{name: getattr(plan, name) for name in plan.__dataclass_fields__}))
    assert sizes == [4, 4, 4] * 2  # before training, and after the last round
