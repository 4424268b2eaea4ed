"""Notes about a run: layers that stay dense, and a cycle without an effect; where they are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fedloru as fl
from fedloru.cli import app
from fedloru.method import planned
from fedloru.run.notes import merge_notes
from fedloru.settings.types import RunSize

SHORT = ["-s", "rounds=2", "-s", "method.tau=2", "-s", "data.test_fraction=0.5", "-s", "client.steps=1"]
NOTE = "no merge falls before the last of 2 rounds (the cycle is 2), so fedloru trains like FedLoRA"


def call(*args: str) -> str:
    done = CliRunner().invoke(app, list(args), catch_exceptions=False, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("command", ["cost", "audit"])
def test_a_cycle_without_an_effect_is_reported_before_the_run(command: str) -> None:
    assert f"Note: {NOTE}" in call(command, "small", *SHORT)
    assert NOTE not in call(command, "small", *SHORT, "-s", "method.tau=1")


def test_the_run_reports_it_and_the_dense_layers_and_its_page_reports_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    printed = call("run", "small", *SHORT, "--out", str(folder))
    assert f"Note: {NOTE}" in printed and "fc2 is not adapted: it is the output layer; it stays dense" in printed
    notes = json.loads((folder / "summary.json").read_text())["notes"]
    assert len(notes) == 1 and NOTE in notes[0]
    page = (folder / "report.html").read_text("utf-8")
    assert all(note[1:] in page for note in notes)


def test_the_folder_records_the_settings_that_were_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    call("run", "small", *SHORT[:2], *SHORT[4:], "--out", str(folder), "--quiet")
    config = (folder / "config.toml").read_text()
    for line in ("tau = 1", "lr = 0.1", "alpha = 8.0", 'targets = [\n    "fc1",\n]'):
        assert f"{line}\n" in config


def test_a_run_of_one_round_is_not_told_to_choose_a_shorter_cycle() -> None:
    (note,) = merge_notes(planned(fl.fedloru(recipe="paper"), RunSize(1)), 1)
    assert note.startswith("no merge falls before the only round") and note.endswith(": train for more rounds")


def test_a_run_from_python_records_the_learning_rate_that_was_chosen(tmp_path: Path) -> None:
    digits = fl.data.load("digits")
    net = fl.attach(fl.models.build("mlp", channels=1, size=8, classes=10, seed=0), rank=4)
    recipe = fl.Recipe(optimizer="adam", steps=1)
    run = fl.run(
        net,
        fl.fedloru(recipe="paper"),
        digits,
        fl.data.iid(digits, 4),
        rounds=1,
        cohort=2,
        recipe=recipe,
        out=tmp_path / "run",
    )
    list(run)
    assert "lr = 0.001" in (tmp_path / "run" / "config.toml").read_text()
