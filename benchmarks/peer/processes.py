"""Drivers as processes that wait for work, and the environments in which they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
QUIET = {"TQDM_DISABLE": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "WANDB_MODE": "disabled"}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ENVIRONMENT = QUIET | ONE_THREAD | {"OMP_WAIT_POLICY": "PASSIVE"}
"""One thread each, and nothing that libraries would do for their makers or for a terminal."""


class Driver(NamedTuple):
    """One row of the table.

    Attributes:
        title: the heading of the row.
        script: the file in this folder that does the work.
        arguments: the command-line arguments of the script.
        requirements: what to install for it, pinned; () for the environment that this program runs in.
        bare: what to install without its dependencies, because they ask for versions or packages that are not needed.
    """

    title: str
    script: str
    arguments: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()


class PeerError(Exception):
    """An environment cannot be made, or a driver cannot do its work; the message says why in one sentence."""


def python(name: str, driver: Driver, folder: Path) -> Path:
    """Return the interpreter of the environment of ``driver``, which is made in ``folder`` unless it is there.

    Raises:
        PeerError: a package cannot be installed.
    """
    if not driver.requirements:
        return Path(sys.executable)
    place = folder / name
    interpreter = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = [*pins("torch", "numpy"), *driver.requirements]
    ready, wanted = place / "installed.json", json.dumps([packages, driver.bare])
    if ready.is_file() and ready.read_text() == wanted:
        return interpreter
    print(f"installing {driver.title} into {place}", file=sys.stderr)
    _do([sys.executable, "-m", "venv", "--clear", str(place)], driver)
    install = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _do([*install, *packages], driver)
    if driver.bare:
        _do([*install, "--no-deps", "--ignore-requires-python", *driver.bare], driver)
    ready.write_text(wanted)
    return interpreter


def pins(*names: str) -> list[str]:
    """Return the versions of packages that this repository pins, so that all environments have the same."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.split("==")[0] in names]


def _do(command: list[str], driver: Driver) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
        raise PeerError(f"{driver.title} cannot be installed: {errors[-1]}")


class Process:
    """A driver that is running; ``log`` gets what it prints."""

    def __init__(self, name: str, driver: Driver, environments: Path, log: Path) -> None:
        interpreter = python(name, driver, environments)
        self.driver, self.log = driver, log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [str(interpreter), str(FOLDER / driver.script), *driver.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env=os.environ | ENVIRONMENT,
            )

    def work(self, folder: Path) -> dict[str, Any]:
        """Return the answer of the driver to the work in ``folder``.

        Raises:
            PeerError: the driver has failed or ended.
        """
        assert self.process.stdin and self.process.stdout
        try:
            print(folder, file=self.process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"error": "it has ended"}')
        except BrokenPipeError:
            answer = {"error": "it has ended"}
        if "error" in answer:
            raise PeerError(f"{self.driver.title} fails on {folder.name}: {answer['error']} (see {self.log})")
        return answer

    def close(self) -> None:
        """End the driver: it leaves when there is no more work."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # the driver may have failed
            self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
