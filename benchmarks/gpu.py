"""Measure the fused engine on a GPU: against the sequential engine, and against centralized training.

    python benchmarks/gpu.py [--device cuda] [--repeats 5] [--out benchmarks/results/gpu.json]

ResNet-18 of width 64 with GroupNorm on 32×32 images, 50 of 100 clients, batch 32, 5 local steps, rank 128 in all
stages. *Limit* is centralized training of the same low-rank model, without an engine, in batches as large as a chunk of
the fused engine. All of them take turns in every repeat, in float32, with TF32 products, and in bf16; the result is the
median ratio. Only training is timed: messages are not encoded. The targets, for a GPU such as the H100: the fused
engine is 10 times as fast as the sequential one, and reaches 0.8 of the limit. If one is missed, in any precision, the
exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from fedloru import lowrank, methods, models
from fedloru import net as nets
from fedloru.data import Examples
from fedloru.engine import Task, choose
from fedloru.net import Net
from fedloru.recipe import Precision, Recipe
from fedloru.session import Job
from fedloru.wire import Channel

LEAST = {"sequential": 10.0, "limit": 0.8}
"""The targets: how many times as fast as each the fused engine must be."""


class Case(NamedTuple):
    """A workload: ``clients`` of ``all`` train for ``steps`` local steps."""

    model: str = "resnet18"
    width: int = 64
    side: int = 32
    all: int = 100
    clients: int = 50
    batch: int = 32
    steps: int = 5
    rank: int = 128


CASE = Case()


class Mode(NamedTuple):
    """How products of float32 tensors are computed."""

    name: str
    precision: Precision = "full"
    tf32: bool = False

    def enter(self) -> None:
        """Make torch compute in this mode."""
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32


MODES = (Mode("float32"), Mode("tf32", tf32=True), Mode("bf16", "bf16"))


class Workload(NamedTuple):
    """The model, the examples, and the jobs of a round, on a device."""

    net: Net
    data: Examples
    jobs: list[Job]
    case: Case


def workload(case: Case, device: str) -> Workload:
    """Return random images, which are as fast as real ones, and a model on ``device``."""
    g = torch.Generator().manual_seed(0)
    own = case.batch * case.steps
    data = {
        "x": torch.randn(case.all * own, 3, case.side, case.side, generator=g).to(device),
        "y": torch.randint(0, 10, (case.all * own,), generator=g).to(device),
    }
    model = models.build(case.model, channels=3, size=case.side, classes=10, seed=0, width=case.width).to(device)
    net = nets.attach(model, rank=case.rank, targets=["layer*"])
    cohort = torch.randperm(case.all, generator=g)[: case.clients].sort().values.tolist()
    return Workload(net, data, [Job(k, torch.arange(k * own, (k + 1) * own)) for k in cohort], case)


def rounds(work: Workload, mode: Mode) -> tuple[dict[str, Callable[[], object]], int]:
    """Return a round of each engine and of centralized training, and the number of clients in a chunk."""
    net, case, method = work.net, work.case, methods.fedlora()
    recipe = Recipe(lr=0.01, batch_size=case.batch, steps=case.steps, precision=mode.precision)
    state = method.init(net, 0)
    engines = {name: choose(name, net, method, state, work.data, recipe) for name in ("sequential", "fused")}

    def engine_round(name: str) -> Callable[[], object]:
        channel = Channel(net, method.name, "benchmark", "exact", False)
        return lambda: engines[name].run(Task(state, work.jobs, recipe, 0, channel))

    chunk = min(case.clients, engines["fused"].clients)
    found = {name: engine_round(name) for name in engines}
    return found | {"limit": centralized(work, recipe, chunk * case.batch)}, chunk


def centralized(work: Workload, recipe: Recipe, batch: int) -> Callable[[], object]:
    """Return training of one low-rank model on as many examples as a round has, in batches of ``batch``."""
    model = lowrank.shallow_copy(work.net.model, trained=True).train()
    trained = [p for name, p in model.named_parameters() if name in work.net.trainable | work.net.factors]
    optimizer = torch.optim.SGD(trained, recipe.rate, recipe.momentum)
    x, y = work.data["x"], work.data["y"]
    steps = max(1, round(work.case.clients * work.case.batch * work.case.steps / batch))

    def run() -> None:
        for step in range(steps):
            rows = torch.arange(step * batch, (step + 1) * batch, device=x.device) % len(x)
            optimizer.zero_grad()
            with nets.autocast(recipe.precision, x.device):
                outputs = model(x[rows])
            F.cross_entropy(outputs.float(), y[rows]).backward()
            torch.nn.utils.clip_grad_norm_(trained, recipe.clip or float("inf"))
            optimizer.step()

    return run


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the time that ``run`` takes, with the work that it leaves on the device."""
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(work: Workload, mode: Mode, repeats: int) -> dict[str, Any]:
    """Return the seconds of a round, the ratios of the fused engine, and the peak memory in bytes on a GPU."""
    device = work.data["x"].device
    mode.enter()
    runs, chunk = rounds(work, mode)
    for run in runs.values():
        seconds(run, device)  # warm-up
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = [{name: seconds(run, device) for name, run in runs.items()} for _ in range(repeats)]
    ratios = {name: statistics.median(t[name] / t["fused"] for t in times) for name in LEAST}
    return {
        "mode": mode.name,
        "clients at once": chunk,
        "seconds": {name: statistics.median(t[name] for t in times) for name in runs},
        "ratio": ratios,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def misses(rows: list[dict[str, Any]]) -> list[str]:
    """Return a message for each target that was missed."""
    return [
        f"{row['mode']}: the fused engine is {row['ratio'][name]:.2f} times as fast as {name}, expected {least:g}"
        for row in rows
        for name, least in LEAST.items()
        if row["ratio"][name] < least
    ]


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print the results."""
    table = Table(title=title)
    for column in (
        "products in",
        "sequential",
        "fused",
        "limit",
        "fused ÷ sequential",
        "fused ÷ limit",
        "clients at once",
    ):
        table.add_column(column, justify="right")
    table.add_column("peak memory", justify="right")
    for row in rows:
        times = [f"{row['seconds'][name]:.3f} s" for name in ("sequential", "fused", "limit")]
        ratios = [
            f"{row['ratio'][name]:.2f} {'✓' if row['ratio'][name] >= least else '✗'} {least:g}"
            for name, least in LEAST.items()
        ]
        peak = "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f} GB"
        table.add_row(row["mode"], *times, *ratios, str(row["clients at once"]), peak)
    Console(width=140).print(table)


def main(case: Case = CASE) -> None:
    """Run the benchmark, then print and save the results.

    Raises:
        SystemExit: there is no such device, or a target was missed.
    """
    parser = argparse.ArgumentParser(description="Measure the fused engine on a GPU.")
    parser.add_argument("--device", default="cuda", help="the torch device (default: cuda)")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds of each (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"), help="output JSON file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "there is no CUDA device: run this on a machine with a GPU, or with --device cpu to try the script out"
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    work = workload(case, arguments.device)
    rows = [measure(work, mode, arguments.repeats) for mode in MODES]
    show(rows, f"{case.model}, {case.clients} of {case.all} clients, batch {case.batch}, rank {case.rank}: {name}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda}
    arguments.out.write_text(json.dumps({"machine": machine, "case": case._asdict(), "modes": rows}, indent=2))
    print(f"saved to {arguments.out}")
    if missed := misses(rows):
        sys.exit("missed targets:\n" + "\n".join(missed))


if __name__ == "__main__":
    main()
