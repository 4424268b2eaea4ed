"""Trackers follow a run: each round once, also if the run is resumed, and a failure never ends it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fedloru as fl
from fedloru.config import load
from fedloru.errors import ConfigError, MissingExtraError
from fedloru.track import Tracked, tracking
from fedloru.track.metrics import metrics, settings

QUICK = ["rounds=4", "method.tau=2", "output.checkpoint_every=2"]
CALLS: list[tuple[Any, ...]] = []
DOWN: set[int] = set()
"""The rounds in which the tracker fails."""


class Recorder:
    """Remembers every call; fails in the rounds of ``DOWN``, with a message that has a password."""

    def __init__(self, run: Tracked) -> None:
        self.id = run.id or "the-id"
        CALLS.append(("start", run.name, run.id))

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        if round in DOWN:
            raise ConnectionError("http://user:secret@host:5000 is down")
        CALLS.append((round, metrics.get("train_loss")))

    def finish(self, summary: Mapping[str, Any], page: str | None) -> None:
        CALLS.append(("finish", summary["rounds"], page is not None and "<html" in page))

    def stop(self) -> None:
        CALLS.append(("stop",))


TOOL = f"track.tool=python:{__name__}:Recorder"


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.chdir(tmp_path)
    CALLS.clear()
    DOWN.clear()
    return CALLS


def train(*overrides: str, rounds: int = 4) -> list[dict[str, Any]]:
    run = fl.start(load("small", [*QUICK, "output.dir=run", *overrides]))
    rows = iter(run)
    taken = [next(rows) for _ in range(rounds)]
    rows.close() if rounds < 4 else list(rows)
    return taken


def test_a_tracker_records_every_round_and_the_summary(calls: list[tuple[Any, ...]]) -> None:
    rows = train(TOOL)
    every = [(row["round"], row["train_loss"]) for row in rows]
    assert calls == [("start", "run", None), (0, None), *every, ("finish", 4, True)]
    assert json.loads(Path("run/track.json").read_text())["round"] == 4


def test_a_resumed_run_continues_the_record(calls: list[tuple[Any, ...]]) -> None:
    """Three rounds are recorded; the run goes back to the checkpoint of round 2, and round 3 is not recorded again."""
    train(TOOL, rounds=3)
    Path("run/checkpoint/round-000003.safetensors").unlink()
    Path("run/checkpoint/round-000003.json").unlink()
    assert calls[-1] == ("stop",)
    resumed = fl.resume("run")
    assert resumed.state.round == 2
    list(resumed)
    assert [each[0] for each in calls] == ["start", 0, 1, 2, 3, "stop", "start", 4, "finish"]
    assert calls[6] == ("start", "run", "the-id")


def test_a_failure_is_one_warning_and_the_record_is_completed_later(
    calls: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    DOWN.add(2)
    with caplog.at_level(logging.WARNING, "fedloru.track"):
        train(TOOL, rounds=3)
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("fedloru.track")]
    assert "no longer tracked by Recorder, but goes on: ConnectionError" in warning and "secret" not in warning
    assert [each[0] for each in calls] == ["start", 0, 1]
    DOWN.clear()
    list(fl.resume("run"))
    assert [each[0] for each in calls][3:] == ["start", 2, 3, 4, "finish"]


def test_a_tracker_that_cannot_start_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fedloru.track"):
        rows = train(f"track.tool=python:{__name__}:broken")
    assert len(rows) == 4 and "no longer tracked by broken" in caplog.text
    assert Path("run/summary.json").is_file()


def broken(run: Tracked) -> Recorder:
    raise TimeoutError("no answer")


def test_a_missing_library_is_reported_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, **_: object) -> None:
        raise MissingExtraError(name, "track", "track.tool")

    monkeypatch.setattr("fedloru.track.callback.optional", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedloru\[track\]'"):
        train("track.tool=wandb")
    assert not Path("run").exists()


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"track\.uri contains a user or a password"):
        load("small", ["track.tool=mlflow", "track.uri=http://me:secret@host:5000"])
    with pytest.raises(ConfigError, match=r"only track\.tool = 'mlflow' has this setting"):
        load("small", ["track.tool=tensorboard", "track.uri=x"])
    assert tracking(load("small").track.model_dump()) == []


def test_a_run_from_python_is_tracked(calls: list[tuple[Any, ...]]) -> None:
    digits = fl.data.load("digits")
    net = fl.attach(fl.models.build("mlp", channels=1, size=8, classes=10, hidden=[8], seed=0), rank=2)
    tool = TOOL.partition("=")[2]
    list(fl.run(net, fl.fedavg(), digits, fl.data.iid(digits, clients=4), rounds=2, cohort=2, track=tool))
    assert [each[0] for each in calls] == ["start", 0, 1, 2, "finish"] and "digits" in calls[0][1]
    with pytest.raises(ConfigError, match=r"track\.project"):
        fl.run(
            net, fl.fedavg(), digits, fl.data.iid(digits, clients=4), cohort=2, track={"tool": "mlflow", "project": 3}
        )


def test_rows_and_settings_are_flat() -> None:
    row = {
        "round": 3,
        "merged": True,
        "train_loss": 0.5,
        "test_f1": None,
        "cohort": [1, 2],
        "bytes": {"up": {"factors": 8}},
        "diagnostics": {"update_cosine": float("nan")},
        "client_scores": {"berlin": {"accuracy": 1.0}},
    }
    assert metrics(row) == {"merged": 1.0, "train_loss": 0.5, "bytes/up/factors": 8.0}
    assert settings({"seed": 1, "lowrank": {"targets": ["a"]}, "output": {"dir": "x"}, "track": {"uri": "y"}}) == {
        "seed": 1,
        "lowrank.targets": "['a']",
    }
