"""Start servers and clients as separate processes on loopback, and stop each by its process id."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from fedloru.cli import app

FEDLORU = (sys.executable, "-m", "fedloru")
LIMIT = 120.0
"""The longest time in seconds that a test waits for one thing."""


def until(what: Callable[[], Any], seconds: float = LIMIT, *, why: Callable[[], str] = lambda: "") -> Any:
    """Return the first true value of ``what``, and fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"nothing happened in {seconds:g} s\n{why()}"
        time.sleep(0.02)
    return value


class Child:
    """A process that prints to the file ``log``; it is the leader of its group."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.log, self._seen = log, log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=log.parent,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def text(self) -> str:
        """Return what this process has printed."""
        return self.log.read_bytes()[self._seen :].decode("utf-8", "replace")

    def says(self, pattern: str, seconds: float = LIMIT) -> re.Match[str]:
        """Wait until the output matches a pattern; fail if the process ends without it."""

        def found() -> re.Match[str] | None:
            ended = self.process.poll()
            match = re.search(pattern, self.text)
            assert match or ended is None, f"it ended with {ended}: {self.text}"
            return match

        match: re.Match[str] = until(found, seconds, why=lambda: self.text)
        return match

    def ends(self, code: int, seconds: float = LIMIT) -> str:
        """Wait for the end, check the exit code and that there is no traceback, and return the output on one line."""
        try:
            found = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it did not end in {seconds:g} s: {self.text}") from error
        assert "Traceback" not in self.text, self.text
        assert found == code, (found, self.text)
        return " ".join(self.text.split())

    def signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the process and its children with -9."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Ground:
    """A folder with a federation, its configuration ``trial.toml``, and processes; ``run`` is the run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.run = folder, folder / "federation", folder / "run"
        self.children: list[Child] = []
        self.port = free_port()

    def cli(self, *args: object, code: int = 0) -> str:
        """Run a short command in this process, and return its output."""
        result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200", "TERM": "dumb"})
        assert result.exit_code == code, result.output
        return result.output

    def enroll(self, *names: str) -> None:
        """Make certificates and keys, and enroll clients."""
        options = [option for name in names for option in ("--client", name)]
        self.cli("certs", "--dir", self.home, *options)
        for name in names:
            self.cli("enroll", self.home / "clients" / f"{name}.pub", "--name", name, "--dir", self.home)

    def start(self, name: str, *args: object, program: Sequence[str] = FEDLORU) -> Child:
        """Start a command; ``program`` replaces the one that runs it."""
        command = [*program, *map(str, args)]
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        child = Child(command, self.folder / f"{name}.log", {**os.environ, **threads})
        self.children.append(child)
        return child

    def serve(self, *args: object, name: str = "server") -> Child:
        """Start a server with a new run, or with other ``args``, and return when it listens."""
        what = args or (self.folder / "trial.toml", "--out", self.run)
        where = ("--dir", self.home, "--host", "localhost", "--port", self.port)
        server = self.start(name, "serve", *what, *where)
        server.says("Listening on")
        return server

    def join(self, name: str, *args: object, program: Sequence[str] = FEDLORU, **options: object) -> Child:
        """Start a client; ``options`` replace those of the command, and None omits one."""
        usual = {
            "server": f"localhost:{self.port}",
            "ca": self.home / "ca.crt",
            "key": self.home / "clients" / f"{name}.key",
            "data": self.folder / "trial.toml",
            "state": self.folder / "state" / name,
        }
        given = [(f"--{key}", value) for key, value in (usual | options).items() if value is not None]
        return self.start(name, "join", *(part for pair in given for part in pair), *args, program=program)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the run."""
        path = self.run / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def round(self, number: int, seconds: float = LIMIT) -> dict[str, Any]:
        """Wait until a round is recorded, and return its row."""
        until(lambda: len(self.rows()) >= number, seconds, why=self.logs)
        return self.rows()[number - 1]

    def logs(self) -> str:
        """Return what all processes have printed."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """Return an empty ground, and stop all its processes at the end."""
    made = Ground(folder)
    try:
        yield made
    finally:
        for child in made.children:
            child.kill()


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Wire:
    """A TCP proxy in front of a port of loopback, which counts the bytes ``up`` to it, and ``down`` from it."""

    def __init__(self, port: int) -> None:
        self.up = self.down = 0
        self._target, self._listener = port, socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Close all connections, and end all threads."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for each in (self._listener, *self._open):
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for way in ((client, server, "up"), (server, client, "down")):
                    self._threads.append(threading.Thread(target=self._forward, args=way, daemon=True))
                    self._threads[-1].start()

    def _forward(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with suppress(OSError):
            while piece := source.recv(2**16):
                setattr(self, way, getattr(self, way) + len(piece))
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
