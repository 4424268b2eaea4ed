"""Runs from the command line: what they write, that they are reproducible, and that they resume."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from fedloru import api
from fedloru.config import load, parse
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from tests.cli.conftest import QUICK, Cli, rows, same


def test_a_run_writes_a_complete_folder(cli: Cli) -> None:
    result = cli("run", "small", *QUICK)
    folder = Path("runs/small")
    left = {
        "config.toml",
        "partition.json",
        "partition.safetensors",
        "start.json",
        "rounds.jsonl",
        "summary.json",
        "model.safetensors",
        "report.html",
    }
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == left | {"checkpoint"}
    assert "round 6/6" in result.stdout
    assert "Final accuracy" in result.stdout
    assert "Report: runs/small/report.html" in result.stdout
    echo = parse(tomllib.loads((folder / "config.toml").read_text()))
    filled = ["wire.first_download=true", "output.increments=false", "client.lr=0.1"]
    filled += ["lowrank.alpha=8.0", "lowrank.targets=['fc1']"]
    assert echo == load("small", [*QUICK[1::2], *filled])  # defaults that depend on others are filled in
    partition = json.loads((folder / "partition.json").read_text())
    arrays = safetensors.torch.load((folder / "partition.safetensors").read_bytes())
    assert (
        partition["audit"]["examples"] == len(arrays["train"]) == arrays["train_sizes"].sum() == len(arrays["labels"])
    )
    assert (folder / "partition.json").stat().st_size < 2_000
    assert len(partition["classes"]) == 10


def test_the_saved_configuration_reproduces_the_run(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "first", "--quiet")
    cli("run", "first/config.toml", "--out", "second", "--quiet")
    same(Path("first"), Path("second"))


def test_quiet_prints_nothing(cli: Cli) -> None:
    assert cli("run", "small", *QUICK, "--quiet").output == ""


@pytest.mark.parametrize("method", ["fedavg", "fedlora"])
def test_an_override_selects_another_method(cli: Cli, method: str) -> None:
    cli("run", "small", "-s", "rounds=2", "-s", f"method.name={method}", "--quiet")
    assert json.loads(Path("runs/small/summary.json").read_text())["method"] == method


def test_a_stopped_run_is_resumed_exactly(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("run", "small", *QUICK, "--out", "whole", "--quiet")
    with monkeypatch.context() as patch:
        stop_before(patch, 4, KeyboardInterrupt())
        result = cli("run", "small", *QUICK, "--out", "stopped", code=130)
    assert "Stopped." in result.stderr
    assert "Rounds 1 to 3 are saved: `fedloru resume stopped` continues" in result.stderr
    assert rows(Path("stopped")) == rows(Path("whole"))[:3]
    cli("resume", "stopped", "--quiet")
    same(Path("whole"), Path("stopped"))


def test_a_run_is_resumed_from_an_earlier_round(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "whole", "--quiet")
    for start in ("4", "0"):
        folder = Path(f"from{start}")
        shutil.copytree("whole", folder)
        cli("resume", str(folder), "--from-round", start, "--quiet")
        same(Path("whole"), folder)


def test_a_finished_run_is_not_resumed(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--quiet")
    before = Path("runs/small/summary.json").read_bytes()
    assert "is finished" in cli("resume", "runs/small").stderr
    assert Path("runs/small/summary.json").read_bytes() == before


def test_a_finished_run_with_an_edited_configuration_is_not_reported_as_finished(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--quiet")
    config = Path("runs/small/config.toml")
    config.write_text(config.read_text().replace("rounds = 6", "rounds = 9"))
    assert "rounds was 6, is 9" in cli("resume", "runs/small", code=2).stderr


def test_an_edited_configuration_is_refused(cli: Cli) -> None:
    stopped(cli)
    config = Path("runs/small/config.toml")
    config.write_text(config.read_text().replace("lr = 0.1", "lr = 0.2"))
    result = cli("resume", "runs/small", code=2)
    assert "client.lr was 0.1, is 0.2" in result.stderr
    assert len(rows(Path("runs/small"))) == 6


def test_a_truncated_checkpoint_is_refused_and_the_one_before_works(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "whole", "--quiet")
    stopped(cli)
    last = Path("runs/small/checkpoint/round-000006.safetensors")
    last.write_bytes(last.read_bytes()[:-7])
    result = cli("resume", "runs/small", code=2)
    assert "the checkpoint of round 6" in result.stderr
    assert "add --from-round 4" in result.stderr
    assert len(rows(Path("runs/small"))) == 6
    cli("resume", "runs/small", "--from-round", "4", "--quiet")
    same(Path("whole"), Path("runs/small"))


@pytest.mark.parametrize("name", ["round-000006.safetensors", "round-000006.json"])
def test_an_empty_file_of_a_checkpoint_is_refused(cli: Cli, name: str) -> None:
    stopped(cli)
    (Path("runs/small/checkpoint") / name).write_bytes(b"")
    assert "add --from-round 4" in cli("resume", "runs/small", code=2).stderr


def test_a_round_without_a_checkpoint_is_refused(cli: Cli) -> None:
    stopped(cli)
    message = cli("resume", "runs/small", "--from-round", "3", code=2).stderr
    assert "has no checkpoint of round 3; kept: 4 and 6. Choose one with --from-round, or 0" in message


def test_data_that_changed_is_refused(cli: Cli) -> None:
    stopped(cli)
    partition = Path("runs/small/partition.json")
    shutil.copy(partition, "before.json")
    cli("run", "small", *QUICK, "-s", "partition.seed=9", "--out", "other", "--quiet")
    shutil.copy("other/partition.json", partition)
    shutil.copy("other/partition.safetensors", partition.with_suffix(".safetensors"))
    assert "differs from runs/small/partition.json" in cli("resume", "runs/small", code=2).stderr


def test_an_existing_folder_is_refused_and_left_as_it_was(cli: Cli) -> None:
    Path("runs/small").mkdir(parents=True)
    Path("runs/small/thesis.txt").write_text("three years")
    assert "already exists" in cli("run", "small", *QUICK, "--out", "runs/small", code=2).stderr
    assert "already exists" in cli("run", "small", *QUICK, "-s", "output.dir=runs/small", code=2).stderr
    assert [path.name for path in Path("runs/small").iterdir()] == ["thesis.txt"]


def test_a_loss_that_diverges_names_client_and_round_and_keeps_the_checkpoint(cli: Cli) -> None:
    diverge = ("lr=1e-3", "clip=1e30", "schedule=step", "decay=1e9", "decay_every=3")
    result = cli(
        "run", "small", *QUICK, *(argument for change in diverge for argument in ("-s", f"client.{change}")), code=2
    )
    assert "round 4" in result.stderr
    assert "client " in result.stderr
    assert "lower the learning rate" in result.stderr
    assert "Rounds 1 to 3 are saved, but the same settings would diverge again" in result.stderr
    assert len(rows(Path("runs/small"))) == 3
    assert Path("runs/small/checkpoint/round-000003.json").is_file()


def test_divergence_in_the_first_round_leaves_no_checkpoint(cli: Cli) -> None:
    result = cli("run", "small", *QUICK, "-s", "client.lr=1e9", "-s", "client.clip=1e30", code=2)
    assert "round 1: the loss became" in result.stderr
    assert "No round was saved, but the same settings would diverge again" in result.stderr
    assert "fedloru resume" not in result.stderr
    retry = re.search(r"`fedloru (run .*)`", result.stderr)
    assert retry and retry[1] == "run runs/small/config.toml -s client.lr=1e+08"
    assert "round 1: the loss became" in cli(*retry[1].split(), code=2).stderr  # the suggested command runs


def test_a_full_disk_is_reported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device", "runs/small/rounds.jsonl")

    def append(self: RunFolder, row: dict[str, Any]) -> None:
        raise full

    monkeypatch.setattr(RunFolder, "append", append)
    result = cli("run", "small", *QUICK, code=2)
    assert "Error: runs/small/rounds.jsonl: No space left on device" in result.stderr
    assert "fedloru resume runs/small" in result.stderr


def test_warnings_are_printed_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(config: object) -> Run:
        for _ in range(2):
            logging.getLogger("fedloru").warning("clients are trained one after %s", "another")
        return original(config)  # type: ignore[arg-type]

    original = api.start
    monkeypatch.setattr(api, "start", start)
    result = cli("run", "small", *QUICK)
    assert result.stderr.count("Note: clients are trained one after another") == 1


def test_layers_that_stay_dense_are_reported(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grouped_model.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    changes = ("-s", "model.name=python:grouped_model:build", "-s", "lowrank.targets=['*']", "-s", "lowrank.rank=2")
    result = cli("run", "small", *QUICK, *changes)
    assert "Note: layer 1 is not adapted: a convolution with 2 groups" in result.stderr


def stopped(cli: Cli) -> None:
    """Make a run that has finished all rounds, but was killed before it wrote its results."""
    cli("run", "small", *QUICK, "--quiet")
    for name in ("summary.json", "model.safetensors", "report.html"):
        (Path("runs/small") / name).unlink()


def stop_before(monkeypatch: pytest.MonkeyPatch, round: int, error: BaseException) -> None:
    train = Run._round

    def stop(self: Run) -> Any:
        if self.state.round + 1 == round:
            raise error
        return train(self)

    monkeypatch.setattr(Run, "_round", stop)
