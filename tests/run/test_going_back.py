"""A run that is reset to an earlier round leaves no files of later rounds that could be mistaken for its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from fedloru.errors import ModelError, RunFolderError
from fedloru.lowrank import attach
from fedloru.run import checkpoint
from fedloru.run.folder import RESULTS, RunFolder
from fedloru.run.loop import Run
from tests.laws.cases import world
from tests.laws.test_runs import plan
from tests.run.killed import Killed, killed_after


def stopped_after(run: Run, round: int) -> None:
    rows: Iterator[dict[str, object]] = iter(run)
    for row in rows:
        if row["round"] == round:
            rows.close()  # type: ignore[attr-defined]


def made(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {}, {})


def test_a_run_that_was_restarted_and_stopped_resumes_where_it_stopped(tmp_path: Path) -> None:
    cell = world("fedloru", "mlp", torch.float32)
    folder = made(tmp_path)
    stopped_after(Run(plan(cell), folder), 6)
    assert checkpoint.rounds(folder.checkpoints) == [4, 6]
    stopped_after(Run(plan(cell), folder, folder.latest("cpu", from_round=0)), 3)
    assert checkpoint.rounds(folder.checkpoints) == [2, 3]
    snapshot = folder.latest("cpu")
    assert snapshot is not None and snapshot.state.round == 3
    assert len(list(Run(plan(cell), folder, snapshot))) == 4


@pytest.mark.parametrize("round", [0, 6])
def test_a_run_killed_while_it_is_reset_is_never_marked_as_finished(round: int, tmp_path: Path) -> None:
    finished = made(tmp_path)
    list(Run(plan(world("fedloru", "mlp", torch.float32)), finished))
    (finished.path / "report.html").touch()
    for changes in count():
        folder = RunFolder.open(shutil.copytree(finished.path, tmp_path / f"killed-{changes}"))
        try:
            with killed_after(changes):
                folder.go_back(round, round // 2)
            break
        except Killed:
            if (folder.path / "summary.json").is_file():
                assert not folder.missing and checkpoint.rounds(folder.checkpoints) == [6, 7]
                assert len(folder.rows(7)) == 7
            else:
                snapshot = folder.latest("cpu")
                assert folder.rows(snapshot.state.round if snapshot else 0) is not None
    assert folder.missing == list(RESULTS) and changes > 5
    assert checkpoint.rounds(folder.checkpoints) == [6] * (round == 6)
    assert (folder.path / "rounds.jsonl").read_bytes().count(b"\n") == round


def test_resuming_a_finished_run_keeps_its_results(tmp_path: Path) -> None:
    folder = made(tmp_path)
    cell = world("fedloru", "mlp", torch.float32)
    list(Run(plan(cell), folder))
    (folder.path / "summary.json").write_text('{"made": "elsewhere"}')
    before = {name: (folder.path / name).read_bytes() for name in ("summary.json", "model.safetensors")}
    (folder.path / "model.safetensors").unlink()
    again = Run(plan(cell), folder, folder.latest("cpu"))
    assert list(again) == []
    assert {name: (folder.path / name).read_bytes() for name in before} == before


def test_a_finished_run_without_checkpoints_is_not_restarted_by_default(tmp_path: Path) -> None:
    folder = made(tmp_path)
    list(Run(plan(world("fedloru", "mlp", torch.float32)), folder))
    for path in folder.checkpoints.glob("round-*"):
        path.unlink()
    with pytest.raises(RunFolderError, match=r"none of its checkpoints is left.*--from-round 0"):
        folder.latest("cpu")
    assert folder.latest("cpu", from_round=0) is None


@pytest.mark.parametrize("change", [("seed", 1), ("round", 5), ("version", 9)])
def test_a_changed_number_in_a_checkpoint_is_detected(tmp_path: Path, change: tuple[str, int]) -> None:
    folder = made(tmp_path)
    list(Run(plan(world("fedloru", "mlp", torch.float32)), folder))
    path = folder.checkpoints / "round-000007.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict([change])))
    with pytest.raises(RunFolderError, match=r"hash it was written with.*--from-round 6"):
        folder.latest("cpu")


def test_a_flipped_bit_in_the_tensors_is_detected(tmp_path: Path) -> None:
    folder = made(tmp_path)
    list(Run(plan(world("fedloru", "mlp", torch.float32)), folder))
    path = folder.checkpoints / "round-000007.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunFolderError, match="hash it was written with"):
        folder.latest("cpu")


def test_a_copy_of_a_checkpoint_is_not_a_checkpoint(tmp_path: Path) -> None:
    folder = made(tmp_path)
    list(Run(plan(world("fedloru", "mlp", torch.float32)), folder))
    path = folder.checkpoints / "round-000007.json"
    path.with_name("round-000007 (copy).json").write_bytes(path.read_bytes())
    assert checkpoint.rounds(folder.checkpoints) == [6, 7]


def test_a_string_is_not_a_list_of_globs() -> None:
    with pytest.raises(ModelError, match=r"a list of globs is expected: \['\*'\]"):
        attach(torch.nn.Sequential(torch.nn.Linear(4, 4)), rank=1, targets="*")
