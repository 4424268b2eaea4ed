"""A regression end to end: from Python and from a configuration, its record, its page and its continuation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fedloru as fl
from fedloru import report
from fedloru.config import load, plan
from fedloru.data import Dataset
from fedloru.errors import ConfigError, FedloruError, ModelError
from fedloru.report.live import Live
from fedloru.run.loop import Run

G = torch.Generator().manual_seed(0)
X = torch.randn(120, 5, generator=G)
Y = (X @ torch.randn(5, generator=G)).tanh()
DATA = Dataset("tanh", {"x": X[:80], "y": Y[:80]}, {"x": X[80:], "y": Y[80:]}, classes=())


def made(out: Path | None = None, **settings: Any) -> Run:
    net = fl.attach(fl.models.build("mlp", channels=5, size=1, classes=1, seed=0), rank=2, targets=["fc1"])
    settings = {"rounds": 4, "cohort": 3, "out": out, **settings}
    return fl.run(net, fl.fedloru(tau=2), DATA, fl.data.iid(DATA, 4, test_fraction=0.2), **settings)


def worst(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets).abs().max()


def sometimes(outputs: Tensor, targets: Tensor) -> float:
    return math.nan if len(targets) == 40 else 1.0


def scalar(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (outputs[:, 0] - batch["y"]).square().mean()


def fourth(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (outputs[:, 0] - batch["y"]) ** 4


def broken(outputs: Tensor, targets: Tensor) -> float:
    raise KeyError("width")


def test_rows_have_the_metrics_of_a_regression_and_no_accuracy() -> None:
    run = made()
    row = list(run)[-1]
    model = run.model()
    with torch.no_grad():
        errors = model(X[80:])[:, 0] - Y[80:]
    assert row["test_accuracy"] is None and row["test_f1"] is None
    assert row["test_loss"] == pytest.approx(float(errors.square().mean()), rel=1e-4)
    assert row["test_rmse"] == pytest.approx(math.sqrt(row["test_loss"]), rel=1e-4)
    assert row["test_r2"] == pytest.approx(1 - row["test_loss"] / float(Y[80:].var(correction=0)), rel=1e-3)
    assert row["personal"]["shared"].keys() == {"clients", "loss", "worst_loss"}
    summary = run.summary()
    assert (summary["task"], summary["loss"], summary["final_accuracy"]) == ("regression", "mse", None)
    assert summary["final_rmse"] == row["test_rmse"]


def test_the_engines_agree() -> None:
    rows = [list(made(engine=engine))[-1] for engine in ("sequential", "fused")]
    for key in ("train_loss", "test_loss", "test_rmse", "test_mae"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-4)


def test_the_page_and_the_progress_name_the_loss(tmp_path: Path) -> None:
    run = made(tmp_path / "r")
    rows = list(run)
    text = (tmp_path / "r" / "report.html").read_text()
    assert "Final mean squared error" in text and "RMSE" in text and "R²" in text
    assert "accuracy" not in text.lower().split("<h2>setup</h2>")[0].split("window.plotly")[0].split("class counts")[0]
    assert "nats" not in text
    line = Live("r", 4)._line(rows[-1])
    assert f"rmse {report.units.digits(rows[-1]['test_rmse'])}" in line and "acc" not in line
    table = {label: value for label, value, _ in report.headline.headline(run.summary())}
    assert "Final accuracy" not in table and table["RMSE"] == report.units.digits(rows[-1]["test_rmse"])


def test_own_metrics_are_recorded_and_resumed(tmp_path: Path) -> None:
    chosen = {"worst": worst, "sometimes": sometimes}
    whole = list(made(metrics=chosen))
    run = made(tmp_path / "r", metrics=chosen, checkpoint_every=2)
    for row in run:
        if row["round"] == 2:
            break
    resumed = made(tmp_path / "r", metrics=chosen, checkpoint_every=2, resume=True)
    list(resumed)
    rows = [json.loads(line) for line in (tmp_path / "r" / "rounds.jsonl").read_text().splitlines()]
    assert [row["test_worst"] for row in rows] == [row["test_worst"] for row in whole]
    assert rows[-1]["test_sometimes"] is None and rows[-1]["missing"] == {"sometimes": "it is nan"}
    notes = json.loads((tmp_path / "r" / "summary.json").read_text())["notes"]
    assert "the metric 'sometimes' has no value in rounds 1, 2, 3, 4: it is nan" in notes
    assert "worst" in (tmp_path / "r" / "report.html").read_text()


def test_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "d.npz", x=X.numpy(), y=np.round(100 * Y.numpy()).astype(int))
    changes = [
        "data.source=npz",
        f"data.path={tmp_path / 'd.npz'}",
        "data.task=regression",
        "model.name=mlp",
        "lowrank.targets=['fc1']",
        "lowrank.rank=2",
        "partition.scheme=iid",
        "partition.clients=4",
        "cohort.size=3",
        "rounds=2",
        f"output.dir={tmp_path / 'run'}",
        f"eval.metrics=['mae', 'python:{__name__}:worst']",
    ]
    run = fl.start(load("demo", [*changes, "model.loss=huber", "client.lr=0.01"]))
    rows = list(run)
    assert rows[-1]["test_worst"] >= rows[-1]["test_mae"] > 0 and "test_r2" not in rows[-1]
    assert "Huber loss" in (tmp_path / "run" / "report.html").read_text()
    assert fl.resume(tmp_path / "run").rows[-1]["test_mae"] == rows[-1]["test_mae"]
    own = plan(load("demo", [*changes, f"model.loss=python:{__name__}:fourth"]))
    assert own.net.losses is fourth
    for change, error, message in (
        ("model.loss=cross_entropy", ConfigError, "needs classes, but y has targets of a regression"),
        (f"model.loss=python:{__name__}:scalar", ModelError, r"shape \(\) for a batch of 2, but one loss per example"),
        (f"model.loss=python:{__name__}:nothing", ModelError, "has no function nothing"),
        ("model.loss=hubert", ConfigError, "model.loss is 'hubert', expected 'cross_entropy', 'mse'"),
        ("eval.metrics=['acu']", ConfigError, "eval.metrics is .*expected a list of 'auc'"),
        ("eval.metrics=['f1']", ConfigError, "not defined for a regression"),
        (
            f"eval.metrics=['python:{__name__}:broken']",
            ConfigError,
            "24 test examples.*\n.*broken: it failed",
        ),
    ):
        with pytest.raises(error, match=message):
            plan(load("demo", [*changes, change]))


def test_models_with_the_wrong_number_of_outputs_are_refused() -> None:
    net = fl.make(fl.models.build("mlp", channels=5, size=1, classes=2, seed=0))
    with pytest.raises(FedloruError, match=r"returns \(1, 2\) for an example of 'tanh'.*one output per target"):
        list(fl.run(net, fl.fedavg(), DATA, fl.data.iid(DATA, 4), rounds=1, cohort=2))


def test_several_targets() -> None:
    both = Dataset("two", {"x": X, "y": torch.stack([Y, -Y], 1)}, {"x": X, "y": torch.stack([Y, -Y], 1)}, ())
    net = fl.make(fl.models.build("mlp", channels=5, size=1, classes=2, seed=0))
    (row,) = fl.run(net, fl.fedavg(), both, fl.data.iid(both, 4), rounds=1, cohort=2)
    assert row["test_rmse"] > 0


@pytest.mark.parametrize(
    ("losses", "settings", "error", "message"),
    [
        (
            scalar,
            {},
            ModelError,
            r"trained on 2 examples of 'tanh': the loss has shape \(\) for a batch of 2",
        ),
        (lambda outputs, batch: fourth(outputs, batch) / 0, {}, ModelError, "untrained model has losses of"),
        (lambda outputs, batch: fourth(outputs.detach(), batch), {}, ModelError, "no gradient reaches"),
        (
            "mse",
            {"metrics": {"mine": broken}},
            ConfigError,
            r"on 40 test examples.*\n.*mine: it failed with Key",
        ),
        ("mse", {"metrics": {"mine": "acu"}}, ConfigError, "metrics is .*expected a list of 'auc'"),
    ],
)
def test_losses_and_metrics_of_yours_are_tried_out(
    losses: Any, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    net = fl.make(fl.models.build("mlp", channels=5, size=1, classes=1, seed=0), losses=losses)
    with pytest.raises(error, match=message):
        fl.run(net, fl.fedavg(), DATA, fl.data.iid(DATA, 4), rounds=1, cohort=2, **settings)
