"""Measure the cost of the curvature of the FedAvg CNN (1.7 M parameters) by number of examples and of probes.

    python benchmarks/curvature.py [--examples 500] [--out benchmarks/results/curvature.json]

A product processes every example once, and a probe is one product, so both should grow linearly. The last table is for
one complete spectrum, as computed by ``fedloru rank demo --clients 0 --sizes 500``. CPU seconds are the sum over all
threads; on a busy machine they are more meaningful than wall-clock time.
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
    """Return the loss of the untrained demo preset over all training examples, shuffled."""
    demo_plan = plan(config.load("demo"))
    (server,) = subjects(demo_plan.partition.train, [None], 0, seed=0)
    data = {key: value[server.rows] for key, value in demo_plan.data.train.items()}
    return objective(demo_plan.net, demo_plan.net.params | demo_plan.net.buffers, data)


def timed(work: Callable[[], Any]) -> Row:
    """Return the wall-clock and CPU seconds that ``work`` takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def by_examples(o: Objective, kind: Kind) -> list[Row]:
    """Return the cost of one product for increasing numbers of examples."""
    rows = []
    for size in SIZES:
        matrix = curvature(first(o, size), kind)
        v = draw(matrix, 0, "benchmark")
        matrix.product(v)
        rows.append({"kind": kind, "examples": size} | timed(lambda matrix=matrix, v=v: matrix.product(v)))
    return rows


def by_probes(o: Objective, kind: Kind, examples: int) -> list[Row]:
    """Return the cost of spectra that differ only in the number of probes, because the tolerance is never reached."""
    matrix = curvature(first(o, examples), kind)
    rows = []
    for probes in PROBES:
        effort = Effort(top=1, steps=3, tolerance=0.0, probes=probes)
        rows.append({"kind": kind, "probes": probes} | timed(lambda effort=effort: spectrum(matrix, effort)))
    return rows


def whole(o: Objective, kind: Kind, examples: int) -> Row:
    """Return the stable rank to ±10 %, and its cost."""
    spectra = []
    cost = timed(lambda: spectra.append(spectrum(curvature(first(o, examples), kind))))
    rank = spectra[0].stable_rank
    assert rank is not None
    return {"kind": kind, "examples": examples, **rank._asdict(), "probes": spectra[0].probes, **cost}


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
