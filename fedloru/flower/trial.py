"""A whole federation on this machine: the server in this process, each client in its own, with TLS and keys."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedloru.flower.keys import public_line, read_public_key
from fedloru.flower.provision import Folder, provision
from fedloru.flower.roster import Roster

Process = subprocess.Popen[bytes]
LOCAL = "localhost"
STOP_SECONDS = 10.0


def prepare(home: Path, clients: int) -> list[str]:
    """Create certificates and keys in ``home`` and enroll the clients; returns their names."""
    names = [f"client-{number}" for number in range(clients)]
    folder = Folder(home)
    provision(folder, [], names)
    for name in names:
        Roster(home).enroll(name, public_line(read_public_key(folder.client(name)[1])))
    return names


@contextmanager
def clients(
    home: Path, names: list[str], config: Path, port: int, logs: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start one client per name, with the parts of the partition in ``config``; stop them at the end.

    What a client prints is in ``logs``.
    """
    logs.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // len(names)))
    environment = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    running: list[Process] = []
    try:
        for part, name in enumerate(names):
            with (logs / f"{name}.log").open("ab") as log:
                command = join_command(home, name, config, part, port)
                running.append(
                    subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
                )
        yield running
        for process in running:
            process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _stop(running)


def join_command(home: Path, name: str, config: Path, part: int, port: int) -> list[str]:
    """Return the command that starts the client ``name`` with its part of the partition in ``config``."""
    folder = Folder(home)
    return [
        *(sys.executable, "-m", "fedloru", "join", "--warm", "--share-scores"),
        *("--server", f"{LOCAL}:{port}", "--ca", str(folder.ca[0]), "--key", str(folder.client(name)[0])),
        *("--data", str(config), "--part", str(part), "--state", str(home / "state" / name)),
    ]


def _stop(processes: Sequence[Process]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
