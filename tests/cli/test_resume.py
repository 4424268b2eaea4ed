"""Runs resumed twice at once, with changed data or models, from earlier rounds, or with missing files."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import fedloru as fl
from fedloru import report
from fedloru.run import lock
from tests.cli.conftest import QUICK, Cli, rows, same

RUN = Path("runs/small")


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("-s", setting)]


def write_data(shift: float = 0.0, test_shift: float = 0.0) -> None:
    """Write data that is constant, except for one value of a training example and one of a test example."""
    g = np.random.default_rng(0)
    x, x_test = (g.normal(size=(n, 8)).astype(np.float32) for n in (40, 10))
    x[3, 5] += shift
    x_test[2, 1] += test_shift
    np.savez("own.npz", x=x, y=np.arange(40) % 2, x_test=x_test, y_test=np.arange(10) % 2)


@pytest.fixture
def own(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make a run with custom data and a custom model that was stopped after its rounds; return the model's module."""
    module = ModuleType("own_model")
    module.bias = 0.0  # type: ignore[attr-defined]

    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
        nn.init.constant_(model[2].bias, module.bias)
        return model

    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_model", module)
    write_data()
    settings = ("data.source=npz", "data.path=own.npz", "model.name=python:own_model:build", "partition.clients=4")
    cli(
        "run", "small", *QUICK, *words(*settings, "cohort.size=2", "lowrank.rank=1", "lowrank.targets=['0']"), "--quiet"
    )
    (RUN / "summary.json").unlink()
    return module


def test_a_second_resume_is_refused_while_the_first_runs(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--quiet")
    (RUN / "report.html").unlink()
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    with lock.alone(RUN):
        message = cli("resume", str(RUN), "--from-round", "4", code=2).stderr
        assert message.startswith(f"Error: {RUN} is in use: process ")
        assert message.count("\n") == 1  # raised before anything is loaded, so no note about saved rounds follows
        cli("report", str(RUN))
    assert (RUN / "report.html").is_file()
    assert {path: path.read_bytes() for path in before} == before


def test_an_unchanged_run_is_resumed_without_a_note(cli: Cli, own: ModuleType) -> None:
    assert "Note" not in cli("resume", str(RUN)).stderr


@pytest.mark.parametrize(
    ("change", "changed"),
    [({"shift": 1.0}, "the training examples and the test examples"), ({"test_shift": 1e-6}, "the test examples")],
)
def test_data_with_other_values_is_refused(cli: Cli, own: ModuleType, change: dict[str, float], changed: str) -> None:
    """The training examples also determine how the test examples are normalized."""
    write_data(**change)
    stderr = cli("resume", str(RUN), "--from-round", "4", code=2).stderr
    assert f"has changed: {changed}. " in stderr
    assert "restore them, or start a new run" in stderr
    assert len(rows(RUN)) == 6


def test_another_starting_model_is_refused(cli: Cli, own: ModuleType) -> None:
    own.bias = 0.5
    assert "has changed: the starting model." in cli("resume", str(RUN), code=2).stderr


def test_a_folder_without_hashes_is_resumed_with_a_note(cli: Cli, own: ModuleType) -> None:
    (RUN / "checkpoint/origin.json").unlink()
    message = cli("resume", str(RUN), "--from-round", "4", "--quiet").stderr
    assert message.count("Note: runs/small has no hashes of its data and model") == 1
    assert len(rows(RUN)) == 6


def test_damaged_hashes_are_refused(cli: Cli, own: ModuleType) -> None:
    (RUN / "checkpoint/origin.json").write_text("{")
    assert "origin.json is damaged" in cli("resume", str(RUN), code=2).stderr


def test_from_python_changed_data_is_refused(tmp_path: Path) -> None:
    def make(shift: float, **settings: bool) -> fl.Run:
        g = torch.Generator().manual_seed(0)
        examples = {"x": torch.randn(12, 3, generator=g) + shift, "y": torch.arange(12) % 2}
        data = fl.data.Dataset("mine", examples, examples, ("a", "b"))
        net = fl.make(fl.models.build("mlp", channels=3, size=1, classes=2, seed=0))
        clients = fl.data.iid(data, clients=3)
        return fl.run(net, fl.fedavg(), data, clients, rounds=2, cohort=2, out=tmp_path / "run", **settings)

    for _ in make(0.0):
        break
    with pytest.raises(fl.errors.RunFolderError, match="the training examples and the test examples"):
        make(0.1, resume=True)
    assert [row["round"] for row in make(0.0, resume=True)] == [2]


def test_a_finished_run_is_resumed_from_a_round_with_a_checkpoint(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--quiet")
    shutil.copytree(RUN, "whole")
    message = cli("resume", str(RUN), "--from-round", "5", code=2).stderr
    assert "has no checkpoint of round 5; kept: 4 and 6." in message
    same(Path("whole"), RUN)
    assert "round 5/6" in cli("resume", str(RUN), "--from-round", "4").stdout
    same(Path("whole"), RUN)


def test_a_run_resumed_from_an_earlier_round_and_stopped_is_not_finished(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--quiet")
    for row in fl.resume(RUN, from_round=4):
        if row["round"] == 5:
            break
    left = {path.name for path in RUN.iterdir()}
    assert not left & {"summary.json", "model.safetensors", "report.html"}
    assert "nothing is left" not in cli("resume", str(RUN)).stderr
    assert json.loads((RUN / "summary.json").read_text())["rounds"] == 6


def test_a_report_that_is_missing_is_written(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(report, "write", killed)
        cli("run", "small", *QUICK, "--quiet", code=130)
    summary = (RUN / "summary.json").read_bytes()
    assert not (RUN / "report.html").exists()
    assert "its report was missing, and has been written to runs/small/report.html" in cli("resume", str(RUN)).stderr
    assert "Final accuracy" in (RUN / "report.html").read_text()
    assert "nothing is left to train" in cli("resume", str(RUN)).stderr
    assert (RUN / "summary.json").read_bytes() == summary


def test_a_model_or_summary_that_is_missing_is_written(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--quiet")
    shutil.copytree(RUN, "whole")
    for missing in (["model.safetensors"], ["summary.json", "report.html"]):
        for name in missing:
            (RUN / name).unlink()
        message = cli("resume", str(RUN), "--quiet").stderr
        assert message == (
            f"Nothing is left to train: all 6 rounds are trained. Writing what is missing: {', '.join(missing)}.\n"
        )
        same(Path("whole"), RUN)
        assert all((RUN / name).is_file() for name in missing)
