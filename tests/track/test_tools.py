"""The adapters, against the libraries themselves: what they wrote is read back."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedloru as fl
from fedloru.config import load
from tests.track.test_tracking import QUICK

# Starting the libraries takes seconds.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning")]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def interrupted(*overrides: str) -> list[dict[str, Any]]:
    """Train three rounds, lose the last checkpoint, resume, and return the rows of all four."""
    run = fl.start(load("small", [*QUICK, "output.dir=run", *overrides]))
    rows = iter(run)
    for _ in range(3):
        next(rows)
    rows.close()
    for file in Path("run/checkpoint").glob("round-000003.*"):
        file.unlink()
    resumed = fl.resume("run")
    list(resumed)
    return resumed.rows


def test_tensorboard_event_files() -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = interrupted("track.tool=tensorboard")
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    for key in ("train_loss", "test_accuracy", "up_bytes_total", "lr", "bytes/up/factors"):
        expected = [row["bytes"]["up"]["factors"] if "/" in key else row[key] for row in rows]
        trained = [event for event in events.Scalars(key) if event.step]
        assert [event.step for event in trained] == [1, 2, 3, 4]
        assert [event.value for event in trained] == pytest.approx(expected)
    assert events.Scalars("summary/final_accuracy")[0].value == pytest.approx(rows[-1]["test_accuracy"])
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| method.tau | 2 |" in text and "track.tool" not in text
    assert any(tag.startswith("sites/") for tag in events.Tags()["scalars"])


def test_tensorboard_needs_a_folder() -> None:
    pytest.importorskip("tensorboard")
    list(fl.start(load("small", [*QUICK, "output.dir=runs/run", "track.tool=tensorboard", "track.dir=all"])))
    assert list(Path("all/run").glob("events*")) and not Path("runs/run/tensorboard").exists()


def test_mlflow_file_store(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = Path("store").resolve().as_uri()
    rows = interrupted("track.tool=mlflow", f"track.uri={uri}", "track.project=digits")
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["method.tau"] == "2" and run.data.params["client.optimizer"] == "sgd"
    for key in ("train_loss", "test_accuracy", "down_bytes"):
        history = [each for each in client.get_metric_history(run.info.run_id, key) if each.step]
        assert [(each.step, each.value) for each in history] == [(row["round"], row[key]) for row in rows]
    assert run.data.metrics["summary/final_accuracy"] == rows[-1]["test_accuracy"]
    files = Path(client.download_artifacts(run.info.run_id, ""))
    assert json.loads((files / "summary.json").read_text())["rounds"] == 4
    assert "plotly" in (files / "report.html").read_text()


def test_a_stopped_run_is_not_running_in_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = Path("store").resolve().as_uri()
    for folder in ("one", "two"):  # the second finds the experiment of the first
        settings = [*QUICK, f"output.dir={folder}", "track.tool=mlflow", f"track.uri={uri}"]
        rows = iter(fl.start(load("small", settings)))
        next(rows)
        rows.close()
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("fedloru").experiment_id])
    assert [run.info.status for run in found] == ["KILLED", "KILLED"]


def test_an_mlflow_server_that_is_down_costs_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    list(fl.start(load("small", [*QUICK, "output.dir=run", "track.tool=mlflow", "track.uri=http://127.0.0.1:9"])))
    warnings = [record for record in caplog.records if record.name.startswith("fedloru.track")]
    assert len(warnings) == 1 and Path("run/summary.json").is_file()


def test_wandb_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B writes one file per start, of the same run; nothing in them describes the machine."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", key := "0123456789abcdef" * 2 + "01234567")
    rows = interrupted("track.tool=wandb", "track.project=digits")
    logged: dict[int, dict[str, float]] = {}
    ids, kinds = set(), set()
    for path in sorted(Path("run/wandb").glob("offline-run-*/*.wandb")):
        for record in records(path):
            kinds.add(record.WhichOneof("record_type"))
            if record.WhichOneof("record_type") == "run":
                ids.add((record.run.run_id, record.run.project, record.run.display_name))
            if record.WhichOneof("record_type") == "history":
                items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                assert items["_step"] not in logged
                logged[items["_step"]] = items
    assert not kinds & {"environment", "output_raw"}
    assert not [path for path in Path("run").rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert len(ids) == 1 and next(iter(ids))[1:] == ("digits", "run")
    assert sorted(logged) == [0, 1, 2, 3, 4]
    assert [logged[row["round"]]["train_loss"] for row in rows] == pytest.approx([row["train_loss"] for row in rows])
    assert list(Path("run/wandb").glob("offline-run-*/files/report.html"))


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a file of W&B: protocol buffers in a log of LevelDB, whose blocks are 32 KiB long."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
