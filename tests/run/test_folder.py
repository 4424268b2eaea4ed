"""The run folder: created atomically, and written to by one process at a time."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from filelock import FileLock

from fedloru.errors import RunFolderError
from fedloru.run import lock
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from tests.run.killed import Killed, killed_after
from tests.run.test_run import plan, timeless

CONFIG = {"rounds": 6}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files of the run, by path."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def made(path: Path) -> dict[str, bytes]:
    RunFolder.create(path, CONFIG, {"scheme": "by hand"}, {"starting model": "f00d"})
    return contents(path)


def test_a_folder_whose_creation_was_killed_is_complete_or_can_be_created(tmp_path: Path) -> None:
    expected, ended = made(tmp_path / "whole"), []
    for changes in count():
        path = tmp_path / f"killed-{changes}"
        try:
            with killed_after(changes):
                made(path)
            break
        except Killed:
            ended.append((path / "config.toml").is_file())
            if not ended[-1] and (path / "partition.json").is_file():
                with pytest.raises(RunFolderError, match="stopped before its folder was complete: start it again"):
                    RunFolder.open(path)
            assert (contents(path) if ended[-1] else made(path)) == expected
            assert RunFolder.open(path).latest("cpu") is None
    assert len(ended) > 10 and ended == sorted(ended) and len(set(ended)) == 2


@pytest.mark.parametrize("there", [[], [".gitkeep"]])
def test_an_empty_folder_becomes_the_run_folder_where_it_is(
    there: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in there:
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    made(Path())
    assert tmp_path.stat().st_ino == before == Path().stat().st_ino
    assert Path("rounds.jsonl").is_file()


@pytest.mark.parametrize("name", ["config.toml", "thesis.txt"])
def test_visible_files_are_never_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(RunFolderError, match="already exists"):
        made(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_only_one_of_two_processes_can_create_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process creates the folder between the first check and the lock."""
    alone = lock.alone

    def late(folder: Path):  # type: ignore[no-untyped-def]
        monkeypatch.setattr(lock, "alone", alone)
        RunFolder.create(folder, {"rounds": 7}, {})
        return alone(folder)

    monkeypatch.setattr(lock, "alone", late)
    with pytest.raises(RunFolderError, match="already exists"):
        made(tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").config == {"rounds": 7}


def test_no_other_run_writes_to_the_folder_of_an_active_run(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {}, {})
    rows = iter(Run(plan(), folder))
    next(rows)
    other = RunFolder.open(folder.path)
    with pytest.raises(RunFolderError, match=rf"in use: process {os.getpid()} on .*Wait until it is done"):
        next(iter(Run(plan(), other)))
    assert other.rows(1)  # reading needs no lock
    rows.close()
    again = RunFolder.open(folder.path)
    assert [row["round"] for row in Run(plan(), again, again.latest("cpu"))] == [2, 3, 4, 5, 6]
    assert {path.name for path in folder.path.iterdir() if path.name.startswith(".")} <= {lock.LOCK}


def test_a_killed_process_releases_the_folder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from fedloru.run.lock import alone\n"
        f"with alone(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(RunFolderError, match=f"process {process.pid} on "), lock.alone(tmp_path):
        pass
    process.kill()
    process.communicate()
    assert json.loads((tmp_path / lock.WRITER).read_text())["pid"] == process.pid
    with lock.alone(tmp_path):
        assert json.loads((tmp_path / lock.WRITER).read_text())["pid"] == os.getpid()
    assert not (tmp_path / lock.WRITER).exists()


def test_a_folder_locked_by_an_unknown_writer_is_refused(tmp_path: Path) -> None:
    with lock.alone(tmp_path):
        (tmp_path / lock.WRITER).write_text("[")
        with pytest.raises(RunFolderError, match="another process is writing to it"), lock.alone(tmp_path):
            pass


def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def acquire(self: FileLock, **_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(FileLock, "acquire", acquire)
    code = errno.ENOLCK
    with caplog.at_level(logging.WARNING, "fedloru"), lock.alone(tmp_path):
        assert "does not support locks" in caplog.text
    code = errno.EACCES
    with pytest.raises(PermissionError), lock.alone(tmp_path):
        pass


def test_a_run_that_another_process_has_continued_is_refused(tmp_path: Path) -> None:
    """The first run is stopped, but kept in memory; another process finishes it, so the first is out of date."""
    folder = RunFolder.create(tmp_path / "run", {}, {})
    first = Run(plan(checkpoint_every=1), folder)
    for row in first:
        if row["round"] == 2:
            break
    other = RunFolder.open(folder.path)
    whole = Run(plan(checkpoint_every=1), other, other.latest("cpu"))
    assert len(list(whole)) == 4
    with pytest.raises(RunFolderError, match="another process has continued the run"):
        next(iter(first))
    assert timeless(other.rows(6)) == timeless(whole.rows)


def test_a_stopped_run_continues_in_the_same_process(tmp_path: Path) -> None:
    run = Run(plan(), RunFolder.create(tmp_path / "run", {}, {}))
    for row in run:
        if row["round"] == 2:
            break
    assert [row["round"] for row in run] == [3, 4, 5, 6]
    assert timeless(run.rows) == timeless(list(Run(plan())))
