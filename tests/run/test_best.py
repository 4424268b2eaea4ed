"""The evaluation before training, the best model, and runs that end early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fedloru as fl
from fedloru import tree
from fedloru.errors import ConfigError, RunFolderError
from fedloru.evaluate import evaluate
from fedloru.net import Net
from fedloru.report import records
from fedloru.report.headline import headline
from fedloru.reported_run import ReportedRun
from fedloru.run.best import Best, best, ending
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from fedloru.tree import Params
from tests.run.test_run import plan, timeless

LOSSES = [2.0, 3.0, 1.5, 1.6, 1.0, 1.2, 1.1]
"""The loss before training and after each round, as ``scripted`` states it."""


def scripted(net: Net, tensors: Params) -> dict[str, Any]:
    """Stand in for a score: a loss that has the given values, one after another."""
    scripted.calls += 1  # type: ignore[attr-defined]
    return {"test_loss": LOSSES[scripted.calls - 1]}  # type: ignore[attr-defined]


def told(first: int = 0, **settings: Any) -> Any:
    """Return a plan whose evaluations have the losses of ``LOSSES``, from that of round ``first``."""
    scripted.calls = first  # type: ignore[attr-defined]
    return plan(eval_hook=scripted, **settings)


def test_the_model_is_evaluated_before_training() -> None:
    run = Run(plan())
    assert run.start is None
    rows = list(run)
    test = run.plan.dataset.test
    score = evaluate(run.plan.net, {**run.plan.net.params, **run.plan.net.buffers}, test)
    assert run.start is not None and run.start["round"] == 0 and run.start["train_loss"] is None
    assert run.start["test_loss"] == pytest.approx(score.loss) and run.start["up_bytes_total"] == 0
    assert run.summary()["start"]["test_loss"] == run.start["test_loss"]
    assert [row["round"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_the_evaluation_before_training_is_in_the_folder_and_on_the_curves(tmp_path: Path) -> None:
    run = ReportedRun(plan(), RunFolder.create(tmp_path / "run", {}, {}))
    list(run)
    found = records.read(tmp_path / "run")
    assert found.start == run.start == json.loads((tmp_path / "run" / "start.json").read_text())
    assert [row["round"] for row in records.curve(found)] == [0, 1, 2, 3, 4, 5, 6]
    assert len(found.rounds) == 6 == found.summary["rounds"]


def test_a_resumed_run_of_an_earlier_version_is_evaluated_before_training(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {}, {})
    steps = iter(Run(plan(), folder))
    next(steps), next(steps)
    steps.close()
    start = folder.path / "start.json"
    before = json.loads(start.read_text())
    start.unlink()
    again = RunFolder.open(folder.path)
    list(Run(plan(), again, again.latest("cpu")))
    assert timeless([json.loads(start.read_text())]) == timeless([before])
    start.write_text("{}")
    with pytest.raises(RunFolderError, match=r"start\.json cannot be read"):
        Run(plan(), RunFolder.open(folder.path))


def test_best_and_ending_follow_the_scores() -> None:
    rows = [{"round": round, "test_loss": loss} for round, loss in enumerate(LOSSES)]
    patient = plan(patience=2)
    assert best(patient, rows) == Best(4, 1.0, 2) and best(patient, rows[:4]) == Best(2, 1.5, 1)
    assert best(plan(eval_best="highest loss"), rows) == Best(1, 3.0, 5)
    assert [ending(patient, rows[:end]) is None for end in range(1, 8)] == [True] * 6 + [False]
    assert ending(patient, rows) == "loss has not improved in 2 evaluations since round 4"
    assert ending(plan(patience=2, min_delta=1.5), rows[:3]) == "loss has not improved in 2 evaluations since round 0"
    assert ending(plan(), rows) == "all 6 rounds are trained" and ending(plan(), rows[:-1]) is None
    nan = [{"round": 0, "test_loss": float("nan")}, {"round": 1}, {"round": 2, "test_loss": 1.0}]
    assert best(plan(), nan) == Best(2, 1.0, 0) and best(plan(), []) is None


def test_a_run_ends_once_its_score_no_longer_improves(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {}, {})
    run = ReportedRun(told(patience=1), folder)
    assert [row["round"] for row in run] == [1]
    assert run.ended == run.summary()["ended"] == "loss has not improved in 1 evaluation since round 0"
    assert folder.missing == [] and run.state.round == 1
    assert "The run ended after 1 of" not in (folder.path / "report.html").read_text()  # it has no configuration
    again = RunFolder.open(folder.path)
    resumed = ReportedRun(told(patience=1), again, again.latest("cpu"))
    assert list(resumed) == [] and resumed.ended == run.ended


def test_the_best_model_is_kept_next_to_the_last_one(tmp_path: Path) -> None:
    states = {0: Run(plan()).state}
    whole = Run(plan())
    for row in whole:
        states[row["round"]] = whole.state
    run = Run(told(keep_best=True, checkpoint_every=3), RunFolder.create(tmp_path / "run", {}, {}))
    for row in run:
        expected = best(run.plan, [run.start or {}, *run.rows])
        assert expected is not None and _equal(run.best_state, states[expected.round]), row["round"]
    assert run.best == Best(4, 1.0, 2) and run.summary()["best"] == {"by": "lowest loss", "round": 4, "score": 1.0}
    assert ("Best round", "4", "lowest loss: 1.00") in headline(run.summary())
    saved = safetensors.torch.load_file(tmp_path / "run" / "best.safetensors")
    assert tree.equal(saved, dict(run.model(best=True).state_dict()))
    assert not tree.equal(saved, dict(run.model().state_dict()))


@pytest.mark.parametrize(("stop", "back"), [(1, 0), (4, 0), (3, 3), (4, 3), (5, 3), (6, 3)])
def test_the_best_model_of_a_resumed_run_is_that_of_an_uninterrupted_one(stop: int, back: int, tmp_path: Path) -> None:
    whole = Run(told(keep_best=True))
    list(whole)
    folder = RunFolder.create(tmp_path / "run", {}, {})
    steps = iter(Run(told(keep_best=True, checkpoint_every=3), folder))
    for _ in range(stop):
        next(steps)
    steps.close()
    again = RunFolder.open(folder.path)
    resumed = Run(told(back + 1, keep_best=True, checkpoint_every=3), again, again.latest("cpu", back))
    rows = [*resumed]
    assert timeless(rows) == timeless(whole.rows[back:])
    assert resumed.best == whole.best and _equal(resumed.best_state, whole.best_state)
    assert len(list((folder.path / "best").glob("*.json"))) <= 3


def test_a_run_without_a_folder_has_the_best_model_too() -> None:
    run = Run(told(keep_best=True))
    list(run)
    assert run.best_state.round == 4
    with pytest.raises(ConfigError, match=r"does not keep its best model: set keep_best"):
        Run(plan()).model(best=True)


def test_a_score_that_evaluations_do_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"eval\.best is 'highest auc', but an evaluation has no such score: use "):
        list(Run(plan(keep_best=True, eval_best="highest auc")))
    with pytest.raises(ConfigError, match="eval_best is 'loss', expected 'lowest' or 'highest' and a score"):
        Run(plan(eval_best="loss"))
    list(Run(plan(eval_best="highest auc", rounds=1)))  # it is not used


def test_the_best_model_can_be_exported(tmp_path: Path) -> None:
    run = Run(told(keep_best=True))
    list(run)
    summary = fl.export(run, tmp_path / "best", best=True)
    assert summary["round"] == 4 and summary["scores"]["round"] == 4
    saved = safetensors.torch.load_file(tmp_path / "best" / "model.safetensors")
    assert all(torch.equal(saved[key], value) for key, value in run.model(best=True).state_dict().items())
    with pytest.raises(ConfigError, match="round is 6, but the best round is asked for"):
        fl.export(run, tmp_path / "both", best=True, round=6)


def _equal(one: Any, other: Any) -> bool:
    return tree.equal(one.shared, other.shared) and tree.equal(one.base, other.base)
