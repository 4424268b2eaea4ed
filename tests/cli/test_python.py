"""The same runs from Python."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import fedloru as fl
from fedloru.errors import ConfigError, PartitionError, RunFolderError
from tests.cli.conftest import QUICK, Cli, rows, same

HEAVY = ("rich", "plotly", "datasets", "flwr_datasets", "sklearn", "typer", "mlxtend", "pyarrow", "pandas")


def make(tau: float = 2, out: Path | None = None, **settings: Any) -> fl.Run:
    digits = fl.data.load("digits")
    clients = fl.data.iid(digits, clients=6)
    net = fl.attach(fl.models.build("mlp", channels=1, size=8, classes=10, seed=0), rank=2, targets=["fc1"])
    recipe = fl.Recipe(lr=0.1, clip=1.0)
    given = {"rounds": 6, "cohort": 3, "checkpoint_every": 2, **settings}
    return fl.run(
        net, fl.prox(fl.fedloru(recipe="paper", tau=tau), mu=0.1), digits, clients, recipe=recipe, out=out, **given
    )


def test_every_public_name_is_there_and_documented() -> None:
    for name in fl.__all__:
        assert getattr(fl, name).__doc__
    assert fl.__version__.count(".") == 2


def test_importing_is_light() -> None:
    code = f"import sys, fedloru; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_run_yields_rows_and_requires_no_folder() -> None:
    run = make()
    seen = [row["round"] for row in run]
    assert seen == [1, 2, 3, 4, 5, 6]
    assert run.summary()["merges"] == 3


def test_a_run_writes_a_folder(tmp_path: Path) -> None:
    list(make(out=tmp_path / "run"))
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.toml", "partition.json", "summary.json", "report.html", "model.safetensors"} <= left
    config = tomllib.loads((tmp_path / "run/config.toml").read_text())
    assert config["method"]["name"] == "fedloru"
    assert config["method"]["wrap"] == [{"name": "prox", "mu": 0.1}]
    assert config["client"]["lr"] == 0.1
    assert json.loads((tmp_path / "run/partition.json").read_text())["audit"]["clients"] == 6


def test_a_run_resumes_from_its_folder(tmp_path: Path) -> None:
    list(make(out=tmp_path / "whole"))
    for row in make(out=tmp_path / "stopped"):
        if row["round"] == 3:
            break
    assert len(rows(tmp_path / "stopped")) == 3
    assert [row["round"] for row in make(out=tmp_path / "stopped", resume=True)] == [4, 5, 6]
    same(tmp_path / "whole", tmp_path / "stopped")


def test_a_changed_run_is_not_resumed(tmp_path: Path) -> None:
    list(make(out=tmp_path / "run"))
    with pytest.raises(RunFolderError, match=r"method\.tau was 2, is 3"):
        make(3, out=tmp_path / "run", resume=True)
    with pytest.raises(RunFolderError, match="not a run folder"):
        make(out=tmp_path / "nowhere", resume=True)


def test_an_invalid_run_creates_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a cohort of 9"):
        make(out=tmp_path / "run", cohort=9)
    assert not list(tmp_path.iterdir())


def test_an_invalid_partition_is_refused() -> None:
    digits = fl.data.load("digits")
    clients = fl.data.iid(digits, clients=6)
    twice = clients._replace(train=(clients.train[0], *clients.train[:-1]))
    net = fl.make(fl.models.build("mlp", channels=1, size=8, classes=10, seed=0))
    with pytest.raises(PartitionError, match="more than once"):
        fl.run(net, fl.fedavg(), digits, twice, rounds=1, cohort=2)


def test_the_command_line_prints_how_to_resume_a_run_from_python(cli: Cli, tmp_path: Path) -> None:
    for _ in make(out=tmp_path / "run"):
        break
    assert "resume it with fedloru.run(" in cli("resume", "run", code=2).stderr
    assert "report.html" in cli("report", "run").stdout


def test_a_configuration_runs_from_python(cli: Cli, tmp_path: Path) -> None:
    cli("run", "small", *QUICK, "--out", "shell", "--quiet")
    for row in fl.start(fl.config.load("small", [*QUICK[1::2], "output.dir=python"])):
        if row["round"] == 4:
            break
    list(fl.resume("python"))
    same(tmp_path / "shell", tmp_path / "python")
