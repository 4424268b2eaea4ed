"""Real processes, really stopped: by Ctrl-C, and by kill -9 between any two writes."""

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
    # Where the tests run in the background of a shell, SIGINT is ignored, and a child would inherit that.
    heard = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stderr=subprocess.PIPE, preexec_fn=heard)


def wait_for(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has recorded so many rounds, and a little longer, so that it is hit anywhere in a round."""
    while process.poll() is None:
        if path.is_file() and path.read_bytes().count(b"\n") >= lines:
            time.sleep(random.random() * 0.01)
            return
        time.sleep(0.001)


@pytest.fixture
def whole(cli: Cli) -> Path:
    """Return the folder of a run that nobody stopped."""
    cli("run", "small", *LONG, "--out", "whole", "--quiet")
    return Path("whole").resolve()


def test_a_run_killed_again_and_again_equals_one_that_was_not(cli: Cli, whole: Path) -> None:
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


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(cli: Cli, whole: Path) -> None:
    stopped = whole.with_name("stopped")
    process = begin(whole.parent, "run", "small", *LONG, "--out", "stopped", "--quiet")
    wait_for(stopped / "rounds.jsonl", 5, process)
    process.send_signal(signal.SIGINT)
    told = process.communicate()[1]
    assert process.returncode == 130
    assert "Traceback" not in told
    kept = re.search(r"Rounds 1 to (\d+) are kept: `fedloru resume stopped` goes on", told)
    recorded = (stopped / "rounds.jsonl").read_bytes().count(b"\n")
    assert kept
    assert recorded - int(kept[1]) in (0, 1)  # stopped between the record of a round and what follows, it is done anew
    cli("resume", "stopped", "--quiet")
    same(whole, stopped)
