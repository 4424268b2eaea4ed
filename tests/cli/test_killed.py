"""Processes that are stopped by Ctrl-C, or killed at any moment."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, same

ROUNDS = 60
LONG = ("-s", f"rounds={ROUNDS}", "-s", "method.tau=3", "-s", "output.checkpoint_every=4", "-s", "client.epochs=3")


def begin(folder: Path, *args: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fedloru", *args]
    # If the tests run in the background of a shell, SIGINT is ignored, and a child would inherit that.
    restore_sigint = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stderr=subprocess.PIPE, preexec_fn=restore_sigint
    )


def wait_for(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has recorded this number of rounds, and for a random time, to stop it anywhere in a round."""
    while process.poll() is None:
        if path.is_file() and path.read_bytes().count(b"\n") >= lines:
            time.sleep(random.random() * 0.01)
            return
        time.sleep(0.001)


@pytest.fixture
def whole(cli: Cli) -> Path:
    """Return the folder of an uninterrupted run."""
    cli("run", "small", *LONG, "--out", "whole", "--quiet")
    return Path("whole").resolve()


def test_a_run_killed_repeatedly_equals_an_uninterrupted_one(cli: Cli, whole: Path) -> None:
    killed = whole.with_name("killed")
    args = ["run", "small", *LONG, "--out", "killed", "--quiet"]
    for lines in sorted(random.sample(range(1, ROUNDS - 5), 2)):
        process = begin(whole.parent, *args)
        wait_for(killed / "rounds.jsonl", lines, process)
        process.kill()
        process.communicate()
        args = ["resume", "killed", "--quiet"]
    cli(*args)
    same(whole, killed)


def test_ctrl_c_saves_a_checkpoint_and_prints_how_to_resume(cli: Cli, whole: Path) -> None:
    stopped = whole.with_name("stopped")
    process = begin(whole.parent, "run", "small", *LONG, "--out", "stopped", "--quiet")
    wait_for(stopped / "rounds.jsonl", 5, process)
    process.send_signal(signal.SIGINT)
    message = process.communicate()[1]
    assert process.returncode == 130
    assert "Traceback" not in message
    kept = re.search(r"Rounds 1 to (\d+) are saved: `fedloru resume stopped` continues", message)
    recorded = (stopped / "rounds.jsonl").read_bytes().count(b"\n")
    assert kept
    assert recorded - int(kept[1]) in (0, 1)  # a round without a checkpoint is trained again
    cli("resume", "stopped", "--quiet")
    same(whole, stopped)
