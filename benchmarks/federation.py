"""Measure whether the memory of the processes of a federation, and what they keep on disk, grows.

    python benchmarks/federation.py --rounds 200 --clients 5

Trains a small model on the digits with a server and clients in separate processes, over TLS, and prints a line
every ``--every`` rounds. The processes are read from /proc, so this needs Linux.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fedloru.flower import trial
from fedloru.flower.serve import SERVER

CONFIG = """
rounds = {rounds}
data = {{source = "digits"}}
partition = {{scheme = "iid", clients = {clients}}}
model = {{name = "mlp", hidden = [32]}}
lowrank = {{rank = 4}}
method = {{name = "fedloru", tau = 5}}
client = {{steps = 1}}
cohort = {{size = {clients}}}
eval = {{every = 20, diagnostics = false}}
federation = {{clients = {clients}}}
"""
COLUMNS = ("round", "s/round", "server MB", "clients MB", "threads", "files", "database kB", "run kB", "states kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--port", type=int, default=18443)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        home = Path(folder)
        (home / "config.toml").write_text(CONFIG.format(rounds=given.rounds, clients=given.clients))
        names = trial.prepare(home, given.clients)
        options = ("--host", trial.LOCAL, "--port", str(given.port), "--dir", folder, "--out", str(home / "run"))
        serve = [sys.executable, "-m", "fedloru", "serve", str(home / "config.toml"), *options]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for command in (serve, *joins(home, names, given.port)):
                with (home / f"{len(processes)}.log").open("wb") as log:
                    processes.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
            print("  ".join(COLUMNS), flush=True)
            for row in samples(home, processes, given.rounds, given.every):
                print("  ".join(f"{value:>{len(name)}}" for name, value in zip(COLUMNS, row, strict=True)), flush=True)
            code = processes[0].wait(60)
            print(f"the server ended with {code}")
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
            for process in processes:
                process.wait(30)


def joins(home: Path, names: list[str], port: int) -> list[list[str]]:
    """Return the commands of the clients."""
    return [trial.join_command(home, name, home / "config.toml", part, port) for part, name in enumerate(names)]


def samples(
    home: Path, processes: list[subprocess.Popen[bytes]], rounds: int, every: int
) -> Iterator[tuple[object, ...]]:
    """Yield a row after round 2, and every ``every`` rounds."""
    before, start = 0, time.monotonic()
    for wanted in sorted({min(2, rounds), *range(every, rounds, every), rounds}):
        while (done := recorded(home / "run" / "rounds.jsonl")) < wanted:
            if processes[0].poll() is not None:
                raise SystemExit((home / "0.log").read_text())
            time.sleep(0.05)
        now = time.monotonic()
        server, *clients = (memory(process.pid) for process in processes)
        proc = Path(f"/proc/{processes[0].pid}")
        yield (
            done,
            f"{(now - start) / max(1, done - before):.2f}",
            f"{server:.1f}",
            f"{sum(clients) / max(1, len(clients)):.1f}",
            len(list((proc / "task").iterdir())) if proc.exists() else 0,
            len(list((proc / "fd").iterdir())) if proc.exists() else 0,
            kilobytes(home / SERVER),
            kilobytes(home / "run"),
            kilobytes(home / "state"),
        )
        before, start = done, now


def recorded(rows: Path) -> int:
    """Return the number of rounds in a file of rows."""
    return rows.read_bytes().count(b"\n") if rows.exists() else 0


def memory(pid: int) -> float:
    """Return the resident memory of a process in megabytes, 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1000


def kilobytes(folder: Path) -> int:
    """Return the size of all files in a folder, which may change meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total // 1000


if __name__ == "__main__":
    main()
