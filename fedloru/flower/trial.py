"""A whole federation on this machine: the server in this process, each client in its own, with TLS and keys."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedloru.errors import FedloruError, plain
from fedloru.flower.keys import public_line, read_public_key
from fedloru.flower.provision import Folder, provision
from fedloru.flower.roster import Roster
from fedloru.flower.terms import references
from fedloru.reading import read_toml

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


class Clients:
    """The processes of the clients of a trial, by name; what they print is in the folder ``logs``."""

    def __init__(self) -> None:
        self.running: dict[str, Process] = {}
        self.logs = Path()

    def check(self) -> None:
        """Check that all clients are running.

        Raises:
            FedloruError: a client has stopped; the message ends with what it printed last.
        """
        for name, process in self.running.items():
            if process.poll() is not None:
                lines = (self.logs / f"{name}.log").read_text("utf-8", "replace").strip().splitlines()
                raise FedloruError(f"{name} has stopped: {plain(lines[-1], 2000) if lines else 'it printed nothing'}")

    @contextmanager
    def started(self, home: Path, config: Path, port: int, logs: Path, names: Sequence[str]) -> Iterator[None]:
        """Start one client per name, with the parts of the partition in ``config``; stop them at the end."""
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = logs
        threads = str(max(1, (os.cpu_count() or 1) // len(names)))
        environment = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"} | os.environ
        try:
            for part, name in enumerate(names):
                command = join_command(home, name, config, part, port)
                with (logs / f"{name}.log").open("ab") as log:
                    nothing = subprocess.DEVNULL
                    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=nothing, env=environment)
                self.running[name] = process
            yield
            self._wait()
        finally:
            self._stop()

    def _wait(self) -> None:
        """Give the clients, who have been told that the federation has finished, the time to stop."""
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end and any(process.poll() is None for process in self.running.values()):
            time.sleep(0.1)

    def _stop(self) -> None:
        running, self.running = list(self.running.values()), {}
        for process in running:
            if process.poll() is None:
                process.terminate()
        for process in running:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def join_command(home: Path, name: str, config: Path, part: int, port: int) -> list[str]:
    """Return the command that starts the client ``name`` with its part of the partition in ``config``.

    It allows the functions of the configuration, which are those of the user of this machine.
    """
    folder = Folder(home)
    return [
        *(sys.executable, "-m", "fedloru", "join", "--warm", "--share-scores"),
        *("--server", f"{LOCAL}:{port}", "--ca", str(folder.ca[0]), "--key", str(folder.client(name)[0])),
        *("--data", str(config), "--part", str(part), "--state", str(home / "state" / name)),
        *(f"--allow={reference}" for reference in dict.fromkeys(references(read_toml(config)))),
    ]
