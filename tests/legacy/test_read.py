"""Run folders of earlier versions are read by every command, and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedloru as fl
from fedloru.cli import app

FOLDER = Path(__file__).parent / "run-9a41fbb"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the folder, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(FOLDER, tmp_path / "run"))


def call(*args: str) -> str:
    done = CliRunner().invoke(app, list(args), catch_exceptions=False, env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.output


def rows(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def payload(row: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the bytes of the tensors; messages have had another envelope since."""
    return {way: {kind: n for kind, n in kinds.items() if kind != "envelope"} for way, kinds in row["bytes"].items()}


def test_report(run: Path) -> None:
    call("report", str(run))
    assert "fedloru" in (run / "report.html").read_text()


def test_compare(run: Path) -> None:
    call("run", str(run / "config.toml"), "-s", "method.name=fedlora", "--out", "other", "--quiet")
    assert "FedLoRA" in call("compare", str(run), "other", "-o", "both.html")
    assert Path("both.html").stat().st_size > 0


def test_compare_keeps_the_runs_of_a_configuration(run: Path) -> None:
    name = "fedloru_seed-0"
    shutil.copytree(run, Path("runs") / name)
    printed = call(
        "compare", "--config", str(run / "config.toml"), "--vary", "method.name=fedloru,fedlora", "--out", "runs"
    )
    assert "Run 1 of 1: runs/fedlora_seed-0" in printed
    assert rows(Path("runs") / name) == rows(run)


def test_export(run: Path) -> None:
    call("export", str(run), "--format", "merged", "--out", "exported")
    assert Path("exported/model.safetensors").is_file()


def test_rank_and_align(run: Path) -> None:
    call("rank", str(run), "--clients", "1", "--top", "2", "--probes", "2")
    call("align", str(run), "--clients", "2", "--top", "0")
    assert {path.stem for path in (run / "studies").iterdir()} == {"ranks-5", "alignment-5"}


def test_resume_gives_the_same_rows(run: Path) -> None:
    before = rows(run)
    call("resume", str(run), "--from-round", "4", "--quiet")
    after = rows(run)
    assert len(after) == len(before) == 5
    for old, new in zip(before, after, strict=True):
        assert old.keys() <= new.keys() and payload(old) == payload(new) and old["version"] == new["version"]
        assert new["test_loss"] == pytest.approx(old["test_loss"], rel=1e-5)


def test_the_model_is_that_of_the_summary(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    plan, state = fl.api.load_state(run)
    assert state.version == summary["merges"] == 2
    assert plan.method.name == "fedloru" and plan.method.config["tau"] == 2
