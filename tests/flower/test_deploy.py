"""The walk-through of docs/deploy.md works as printed, on loopback."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fedloru.cli import app
from fedloru.config import parse
from fedloru.run.folder import RunFolder

PAGE = (Path(__file__).parent.parent.parent / "docs" / "deploy.md").read_text("utf-8")
SECONDS = 500.0
PIXELS = 6


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands(name: str) -> list[str]:
    """Return the commands of the walk-through that start with ``name``, in order."""
    lines = "".join(blocks("console")).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith(f"$ {name} ")]


def scans(folder: Path, count: int, seed: int) -> None:
    """Write images of two classes, dark and bright."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        name, low = [("dark", 0), ("bright", 128)][number % 2]
        path = folder / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(low, low + 127, (PIXELS, PIXELS), dtype=np.uint8)).save(path)


def run(command: str, folder: Path) -> str:
    done = subprocess.run(_words(command), cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def started(command: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(_words(command), cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _words(command: str) -> list[str]:
    words = shlex.split(command)
    return [sys.executable, "-m", *words] if words[0] == "fedloru" else words


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
def test_the_walk_through_runs(tmp_path: Path) -> None:
    port, names = free_port(), ("berlin", "paris", "rome")
    server, *sites = (tmp_path / name for name in ("server", *names))
    scans(server / "reference", 30, 0)
    for number, site in enumerate(sites):
        scans(site / "scans", 20 + 4 * number, number + 1)

    run(commands("fedloru certs")[0].replace("fl.example.org", "localhost"), server)
    run(commands("ssh-keygen")[0], sites[2])
    for name, site in zip(names, sites, strict=True):
        shutil.copy(server / "federation" / "ca.crt", site)
        if name != "rome":
            shutil.copy(server / "federation" / "clients" / f"{name}.key", site)
    shutil.copy(sites[2] / "rome.key.pub", server)
    for command in commands("fedloru enroll"):
        assert "Enrolled" in run(command, server)

    (config,) = blocks("toml")
    (server / "scans.toml").write_text(config.replace("rounds = 20", "rounds = 1").replace("tau = 5", "tau = 1"))
    serve = f"{commands('fedloru serve')[0]} --host 127.0.0.1 --port {port}"
    with ExitStack() as stack:
        running = [stack.enter_context(started(serve, server))]
        for command, site in zip(commands("fedloru join"), sites, strict=True):
            local = command.replace("fl.example.org:8443", f"localhost:{port}")
            running.append(stack.enter_context(started(local, site)))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and any(process.poll() is None for process in running):
            time.sleep(0.2)
        logs = "\n".join((site / "log").read_text() for site in (server, *sites))
        assert [process.poll() for process in running] == [0] * 4, logs

    rows = RunFolder.open(server / "runs" / "scans").all_rows()
    assert [row["round"] for row in rows] == [1]
    assert all(row["federation"]["clients"].keys() == set(names) for row in rows)
    shown = run("fedloru clients", server)
    assert all(name in shown for name in names)
    run(commands("fedloru report")[0], server)
    assert (server / "runs" / "scans" / "report.html").is_file()


def test_the_configuration_is_one() -> None:
    (text,) = blocks("toml")
    config = parse(tomllib.loads(text))
    assert (config.federation.clients, config.cohort.size) == (3, 3)


def test_units_and_containers_use_options_that_exist() -> None:
    found = [
        line
        for text in (*blocks("ini"), *blocks("text"))
        for line in re.findall(r"fedloru (?:serve|join) [^;']*", text.replace("\\\n", ""))
    ]
    assert len(found) >= 4
    for line in found:
        _, command, *words = line.splitlines()[0].split()
        shown = CliRunner().invoke(app, [command, "--help"], terminal_width=200).stdout
        assert all(word in shown for word in words if word.startswith("--")), line
