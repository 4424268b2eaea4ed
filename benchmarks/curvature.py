"""Measure what the curvature of the FedAvg CNN (1.7 M parameters) costs, by examples and by probes.

    python benchmarks/curvature.py [--examples 500] [--out benchmarks/results/curvature.json]

A product passes over every example once, and a probe is one product: both columns of seconds should be straight
lines. The last table is one whole spectrum, as ``fedloru rank demo --clients 0 --sizes 500`` finds it. CPU seconds are
of all threads together; on a busy machine they say more than the clock.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fedloru import config
from fedloru.analysis.curvature import KINDS, Kind, curvature
from fedloru.analysis.lanczos import draw
from fedloru.analysis.objective import Objective, first, objective
from fedloru.analysis.spectrum import Effort, spectrum
from fedloru.analysis.study import subjects
from fedloru.config import plan

SIZES = (125, 250, 500, 1000)
PROBES = (1, 2, 4, 8)

Row = dict[str, Any]


def demo() -> Objective:
    """Return the loss of the demo preset over all training examples, shuffled, at the start."""
    made = plan(config.load("demo"))
    (server,) = subjects(made.partition.train, [None], 0, seed=0)
    data = {key: value[server.rows] for key, value in made.data.train.items()}
    return objective(made.net, made.net.params | made.net.buffers, data)


def timed(work: Callable[[], Any]) -> Row:
    """Return the seconds that ``work`` takes, by the clock and of the CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def by_examples(o: Objective, kind: Kind) -> list[Row]:
    """Return the cost of one product over more and more examples."""
    rows = []
    for size in SIZES:
        matrix = curvature(first(o, size), kind)
        v = draw(matrix, 0, "benchmark")
        matrix.product(v)
        rows.append({"kind": kind, "examples": size} | timed(lambda matrix=matrix, v=v: matrix.product(v)))
    return rows


def by_probes(o: Objective, kind: Kind, examples: int) -> list[Row]:
    """Return the cost of spectra that differ by their probes alone: no tolerance is ever reached."""
    matrix = curvature(first(o, examples), kind)
    rows = []
    for probes in PROBES:
        effort = Effort(top=1, steps=3, tolerance=0.0, probes=probes)
        rows.append({"kind": kind, "probes": probes} | timed(lambda effort=effort: spectrum(matrix, effort)))
    return rows


def whole(o: Objective, kind: Kind, examples: int) -> Row:
    """Return the stable rank to ±10 %, and its cost."""
    found = []
    cost = timed(lambda: found.append(spectrum(curvature(first(o, examples), kind))))
    rank = found[0].stable_rank
    assert rank is not None
    return {"kind": kind, "examples": examples, **rank._asdict(), "probes": found[0].probes, **cost}


def show(title: str, rows: list[Row]) -> None:
    """Print one table."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=120).print(table)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description="Measure the cost of curvature.")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/curvature.json"))
    arguments = parser.parse_args()
    o = demo()
    results = {
        "one product": [row for kind in KINDS for row in by_examples(o, kind)],
        "a spectrum, by probes": [row for kind in KINDS for row in by_probes(o, kind, 125)],
        "a stable rank": [whole(o, kind, arguments.examples) for kind in KINDS],
    }
    for title, rows in results.items():
        show(title, rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"threads": torch.get_num_threads(), **results}, indent=2))
    print(f"saved to {arguments.out}")


if __name__ == "__main__":
    main()
