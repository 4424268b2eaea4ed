"""Where runs go without --out, and which run a command means if none is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedloru.run.places import newest, reserved
from tests.cli.conftest import QUICK, Cli, same
from tests.cli.test_run import stop_before, stopped


def test_runs_are_numbered(cli: Cli) -> None:
    assert "exists" not in cli("run", "small", *QUICK).stderr
    result = cli("run", "small", *QUICK)
    assert "runs/small exists: the run is in runs/small-2." in result.stderr
    assert "Report: runs/small-2/report.html" in result.stdout
    assert json.loads(cli("run", "small", *QUICK, "--json", "-q").stdout)["folder"] == "runs/small-3"
    same(Path("runs/small"), Path("runs/small-3"))
    assert 'dir = "runs/small-2"' in Path("runs/small-2/config.toml").read_text()


def test_a_stored_configuration_is_run_next_to_its_run(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "mine", "--quiet")
    cli("run", "mine/config.toml", "--quiet")
    same(Path("mine"), Path("mine-2"))


def test_a_folder_of_something_else_is_left_alone(cli: Cli) -> None:
    Path("runs/small").mkdir(parents=True)
    Path("runs/small-2").touch()
    cli("run", "small", *QUICK, "--quiet")
    assert Path("runs/small-3/summary.json").is_file() and not list(Path("runs/small").iterdir())


def test_a_run_that_cannot_start_leaves_no_folder(cli: Cli) -> None:
    cli("run", "small", "-s", "model.name=python:nope:f", code=2)
    cli("run", "small", "-s", "lowrank.targets=['nope']", code=2)
    assert not Path("runs").exists()


def test_processes_get_different_folders(cli: Cli) -> None:
    """Each of three processes reserves ten folders at once; no two get the same."""
    code = (
        "from contextlib import ExitStack; from pathlib import Path; from fedloru.run.places import reserved\n"
        "with ExitStack() as stack:\n"
        "    for _ in range(10):\n"
        "        folder = stack.enter_context(reserved(Path('runs/x')))\n"
        "        (folder / 'kept').touch()\n"
        "        print(folder)\n"
    )
    run = [sys.executable, "-c", code]
    processes = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = [folder for process in processes for folder in process.communicate()[0].split()]
    numbered = {Path("runs/x" if number == 1 else f"runs/x-{number}") for number in range(1, 31)}
    assert len(folders) == 30 and {Path(folder) for folder in folders} == numbered


def test_a_reserved_folder_is_removed_only_if_it_is_empty(tmp_path: Path) -> None:
    with reserved(tmp_path / "a" / "b") as folder:
        pass
    assert not folder.parent.exists()
    with pytest.raises(ValueError), reserved(tmp_path / "a" / "b") as folder:
        (folder / "log").touch()
        raise ValueError
    assert (folder / "log").exists()


def test_the_stopped_run_is_resumed_by_default(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no run in runs/ is stopped" in cli("resume", code=2).stderr
    cli("run", "small", *QUICK, "--quiet")
    with monkeypatch.context() as patch:
        stop_before(patch, 4, KeyboardInterrupt())
        cli("run", "small", *QUICK, code=130)
    cli("run", "small", *QUICK, "--quiet")  # which is newer, but finished
    assert "The run is runs/small-2." in cli("resume").stderr
    same(Path("runs/small"), Path("runs/small-2"))
    assert "no run in runs/ is stopped" in cli("resume", code=2).stderr


def test_the_newest_run_is_reported_and_exported_by_default(cli: Cli) -> None:
    assert "there is no run in runs/" in cli("report", code=2).stderr
    stopped(cli)
    cli("run", "small", *QUICK, "--quiet")
    for seconds, name in enumerate(("small-2", "small")):
        os.utime(f"runs/{name}/rounds.jsonl", (2e9 + seconds, 2e9 + seconds))
    assert newest() == Path("runs/small")
    assert "Report: runs/small/report.html" in cli("report").stdout
    assert "Exported to out" in cli("export", "--format", "merged", "--out", "out").stdout
