"""What the bits of a run depend on: it is recorded, restored or compared when the run is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from fedloru import api, config
from fedloru.errors import RunFolderError
from fedloru.run.environment import FILE, recorded

SETTINGS = [
    "rounds=4",
    "data.source='digits'",
    "model.name='mlp'",
    "model.hidden=[8]",
    "lowrank.targets=['fc1']",
    "output.checkpoint_every=1",
    "engine.name='sequential'",
]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Return the folder of a run that was stopped after 2 rounds on one thread."""
    torch.set_num_threads(1)
    folder = tmp_path / "run"
    started = api.start(config.load("demo", [*SETTINGS, f"output.dir={json.dumps(str(folder))}"]))
    list(islice(started, 2))
    return folder


def change(folder: Path, **values: Any) -> None:
    path = folder / "checkpoint" / FILE
    entries = json.loads(path.read_bytes())
    entries[-1] |= values
    path.write_text(json.dumps(entries))


def test_the_number_of_threads_is_restored(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.set_num_threads(2)
    api.resume(stopped)
    assert torch.get_num_threads() == 1
    assert "threads was 1, and is 2 in this process: the run is resumed with 1" in caplog.text


def test_another_environment_is_refused_until_it_is_accepted(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(stopped, torch="1.0")
    with pytest.raises(RunFolderError, match=rf"torch was 1\.0, is {torch.__version__[:3]}.*--accept-changes"):
        api.resume(stopped)
    rows = list(api.resume(stopped, accept_changes=True))
    assert [row["round"] for row in rows] == [3, 4] and "torch was 1.0" in caplog.text
    checkpoints = stopped / "checkpoint"
    assert recorded(checkpoints, 2)["torch"] == "1.0" and recorded(checkpoints, 3)["torch"] == torch.__version__


def test_accepted_threads_are_those_of_the_process(stopped: Path) -> None:
    torch.set_num_threads(2)
    api.resume(stopped, accept_changes=True)
    assert torch.get_num_threads() == 2 and recorded(stopped / "checkpoint", 3)["threads"] == 2


def test_a_run_that_starts_over_has_the_environment_of_the_process(stopped: Path) -> None:
    change(stopped, torch="1.0")
    assert len(list(api.resume(stopped, 0))) == 4
    assert recorded(stopped / "checkpoint", 1)["torch"] == torch.__version__


def test_a_folder_without_a_record_is_resumed_with_a_note(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    (stopped / "checkpoint" / FILE).unlink()
    assert len(list(api.resume(stopped))) == 2
    assert "has no record of the threads" in caplog.text
    assert recorded(stopped / "checkpoint", 3)["torch"] == torch.__version__


@pytest.mark.parametrize("content", ["{", "[1]", '[{"after": "x"}]', "[{}]", "null"])
def test_a_damaged_record_is_a_clear_error(stopped: Path, content: str) -> None:
    (stopped / "checkpoint" / FILE).write_text(content)
    with pytest.raises(RunFolderError, match=r"environment.json is damaged"):
        api.resume(stopped)
