"""A regression in a federation: the model of a simulation, and the scores of clients without accuracies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedloru import report
from fedloru.data import Dataset
from fedloru.errors import DataError
from fedloru.flower.listing import listing
from fedloru.flower.roster import Client, Seen
from fedloru.flower.site import aligned
from fedloru.flower.terms import Terms
from fedloru.report import clients
from fedloru.tree import Params
from tests.flower.grids import Grids, configuration, same, simulated

pytestmark = pytest.mark.flower
HERE = f"python:{__name__}:"
TERMS = Terms(python=(f"{HERE}absolute", f"{HERE}signs", f"{HERE}halved"), scores=True)


def absolute(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (outputs[:, 0] - batch["y"]).abs()


def signs(value: Tensor, gradient: Tensor, state: Params, lr: float, step: int) -> tuple[Tensor, Params]:
    return value - lr * gradient.sign(), {}


def halved(round: int, rounds: int) -> float:
    return 0.5**round


def made(folder: Path, **sections: Any) -> Grids:
    x = np.random.default_rng(0).normal(size=(180, 8)).astype(np.float32)
    y = (10 * np.tanh(x[:, 0] + x[:, 1])).round().astype(int)
    np.savez(folder / "data.npz", x=x[:150], y=y[:150], x_test=x[150:], y_test=y[150:])
    sections = {
        "data": {"task": "regression"},
        "partition": {"scheme": "iid", "clients": 4, "test_fraction": 0.2},
    } | sections
    config, file = configuration(folder, **sections)
    return Grids(config, file, folder, TERMS)


def test_a_regression_trains_the_model_of_a_simulation(tmp_path: Path) -> None:
    federation = made(tmp_path)
    run = federation.run()
    rows, expected = list(run), simulated(federation.config)
    assert same(run, expected)
    assert rows[-1]["test_rmse"] == expected.rows[-1]["test_rmse"] and rows[-1]["test_accuracy"] is None
    shared = rows[-1]["personal"]["shared"]
    assert shared == pytest.approx(expected.rows[-1]["personal"]["shared"], rel=1e-5) and "mean" not in shared
    scores = [entry["shared"] for entry in rows[-1]["client_scores"].values()]
    assert scores and all("accuracy" not in score and score["loss"] > 0 for score in scores)


def test_functions_of_yours_run_on_clients_that_allow_them(tmp_path: Path) -> None:
    own = {"optimizer": f"{HERE}signs", "schedule": f"{HERE}halved", "lr": 0.01, "batch_size": 16}
    model = {"name": "mlp", "hidden": [10], "loss": f"{HERE}absolute"}
    federation = made(tmp_path, client=own, model=model)
    rows, expected = list(run := federation.run()), simulated(federation.config)
    assert same(run, expected) and [row["lr"] for row in rows] == pytest.approx([0.01 * 0.5**n for n in (1, 2, 3, 4)])


def test_labels_of_another_kind_are_refused(tmp_path: Path) -> None:
    run = made(tmp_path).run()
    hello = run.carrier._terms  # type: ignore[attr-defined]
    assert hello.reading["task"] == "regression"
    x = torch.randn(6, 8)
    classes = Dataset("mine", {"x": x, "y": torch.arange(6) % 2}, {}, ("a", "b"))
    with pytest.raises(DataError, match="labels of this client are classes, but those of the server targets of a regr"):
        aligned(classes, hello)


def test_tables_of_clients_show_the_loss() -> None:
    seen = {"a": Seen(last_seen="2026-01-01T00:00:00", loss=0.5)}
    titles, (row,) = listing([Client(name="a", key="k", enrolled="2026-01-01")], seen, True).texts()
    assert titles[-1] == "loss" and row[-1] == "0.500"
    rounds = [{"client_scores": {"a": {"accuracy": None, "loss": 0.25}}}]
    records = report.Records(Path("r"), {}, {}, rounds, {})
    head, rows = clients.table(records)
    assert head[-1] == "loss, own test" and rows[0][-1] == "0.250"
