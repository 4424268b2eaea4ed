"""Compare the CPU time of a round with that of other libraries, and with loops written by hand.

    python benchmarks/peers.py [--short] [--only PATTERN …] [--out benchmarks/results/peers.json] [--readme README.md]

Every library gets the same work: the same examples, clients, cohorts, initial weights, local steps and learning rate,
and an evaluation on the same test examples after every round. The accuracies next to the ratios show that it is. Each
runs in an environment that is made from the package index; a library that cannot be installed is skipped, with a
message.

What counts is the CPU time of the rounds, with one thread, of the process and of those it starts, without start-up and
the first rounds. The libraries take turns in every repeat, so that other load on the machine affects all of them; a
ratio is the median over the repeats. Above 1: the library needs more time than fedloru with the engine ``auto``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import markers
from peer import split, table, workloads
from peer.processes import Driver, PeerError, Process

OURS = "ours"
DRIVERS = {
    "flower": Driver("Flower 1.42 + Ray", "with_flower.py", requirements=("flwr[simulation]==1.42.0", "psutil==7.2.2")),
    "pfl": Driver("pfl 0.6.0", "with_pfl.py", requirements=("pfl[pytorch]==0.6.0",)),
    # blazefl asks for Python 3.12, and runs on 3.11.
    "blazefl": Driver(
        "blazefl 2.0.1, one process", "with_blazefl.py", requirements=("tqdm==4.67.1",), bare=("blazefl==2.0.1",)
    ),
    "fluke": Driver("fluke 0.8.1", "with_fluke.py", requirements=("fluke-fl==0.8.1",)),
    "hand": Driver("a hand-written torch loop", "hand.py"),
    "sequential": Driver("fedloru, one client after another", "ours.py", ("sequential",)),
    OURS: Driver("**fedloru**", "ours.py", ("auto",)),
    "centralised": Driver("the limit: centralised training", "centralised.py"),
}

SHORT = ("mlp-fedavg", "mlp-fedlora", "mlp-fedlora-50", "cnn-fedlora")
"""The workloads of the short form."""

Times = dict[str, list[dict[str, float]]]


def measure(name: str, folder: Path, processes: dict[str, Process], repeats: int, rounds: int) -> dict[str, Any]:
    """Return the results of one workload; a driver that fails is closed, and skipped from then on."""
    warm = workloads.WORKLOADS[name].warm
    work = workloads.write(name, rounds, folder / name)
    found: Times = {driver: [] for driver in processes}
    for repeat in range(repeats):
        order = list(processes)
        for driver in order[repeat % len(order) :] + order[: repeat % len(order)]:
            try:
                answer = processes[driver].work(work)
            except PeerError as failure:
                if driver == OURS:
                    sys.exit(str(failure))
                print(failure, file=sys.stderr)
                processes.pop(driver).close()
                found.pop(driver)
                continue
            found[driver].append(summary(answer, warm))
    return {"name": name, "title": workloads.WORKLOADS[name].title, "rounds": rounds, "rows": rows(found)}


def summary(answer: dict[str, list[float]], warm: int) -> dict[str, float]:
    """Return the CPU seconds of a round after the ``warm`` first ones, those of its evaluation, and the accuracy."""
    seconds, evaluation = answer["seconds"], answer["evaluation"]
    found = {"seconds": (seconds[-1] - seconds[warm - 1]) / (len(seconds) - warm), "accuracy": answer["accuracy"][-1]}
    return found | ({"evaluation": statistics.mean(evaluation[warm:])} if evaluation else {})


def rows(times: Times) -> dict[str, dict[str, float]]:
    """Return the medians over the repeats, with the ratio to our time in the same repeat."""
    found = {}
    for driver, repeats in times.items():
        found[driver] = {key: statistics.median(each[key] for each in repeats) for key in repeats[0]}
        pairs = zip(repeats, times[OURS], strict=True)
        found[driver]["ratio"] = statistics.median(theirs["seconds"] / ours["seconds"] for theirs, ours in pairs)
    return found


def chosen(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the ``names`` that match one of ``patterns``; all if no pattern does."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)] or list(names)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the chosen workloads with the chosen drivers."""
    names = chosen(list(workloads.WORKLOADS), arguments.only)
    drivers = {name: DRIVERS[name] for name in chosen(list(DRIVERS), arguments.only) if name != OURS}
    drivers[OURS] = DRIVERS[OURS]
    processes: dict[str, Process] = {}
    columns = []
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        logs = arguments.environments / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        try:
            for name, driver in drivers.items():
                try:
                    processes[name] = Process(name, driver, arguments.environments, logs / f"{name}.txt")
                except PeerError as failure:
                    print(failure, file=sys.stderr)
            for name in names:
                rounds = workloads.WORKLOADS[name].rounds
                columns.append(measure(name, Path(folder), processes, arguments.repeats, rounds))
                print(table.markdown(results(columns)), end="\n\n", flush=True)
        finally:
            for process in processes.values():
                process.close()
    return results(columns)


def results(columns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the measured ``columns`` with the titles of their rows, and what they were measured on."""
    measured = {name for column in columns for name in column["rows"]}
    machine = {"processor": platform.machine(), "cpus": os.cpu_count(), "torch": version("torch")}
    titles = {name: driver.title for name, driver in DRIVERS.items() if name in measured}
    return {"machine": machine, "drivers": titles, "workloads": columns}


def parse() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Compare the CPU time of a round with other libraries.")
    parser.add_argument("--short", action="store_true", help="one repeat of four workloads, in 5 minutes")
    parser.add_argument("--repeats", type=int, help="runs per library and workload (default: 5; with --short: 1)")
    parser.add_argument("--only", nargs="+", default=[], help="names or globs of workloads and libraries to measure")
    parser.add_argument("--environments", type=Path, default=Path("build/peers"), help="folder of the environments")
    parser.add_argument("--out", type=Path, help="output JSON file (default: benchmarks/results/peers.json)")
    parser.add_argument("--readme", type=Path, help="page whose table is replaced")
    parser.add_argument("--profile", action="store_true", help="instead, show where the time of our own rounds goes")
    arguments = parser.parse_args()
    known = (*workloads.WORKLOADS, *DRIVERS)
    for pattern in arguments.only:
        if not any(fnmatchcase(name, pattern) for name in known):
            parser.error(f"--only {pattern} matches none of {', '.join(known)}")
    if arguments.repeats is not None and arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {arguments.repeats}")
    if arguments.readme and (problem := markers.problem(arguments.readme, table.MARKER)):
        parser.error(problem)
    if arguments.out is None:  # a part does not replace the results that the README shows
        part = arguments.short or arguments.only
        arguments.out = Path("benchmarks/results") / ("peers-part.json" if part else "peers.json")
    arguments.repeats = arguments.repeats or (1 if arguments.short else 5)
    if arguments.short and not arguments.only:
        arguments.only = list(SHORT)
    return arguments


def main() -> None:
    """Measure, print the table, and save the results."""
    arguments = parse()
    if arguments.profile:
        print(split.markdown([split.measure(name) for name in chosen(list(workloads.WORKLOADS), arguments.only)]))
        return
    found = run(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"saved to {arguments.out}")
    if arguments.readme:
        markers.put(arguments.readme, table.MARKER, table.markdown(found))


if __name__ == "__main__":
    main()
