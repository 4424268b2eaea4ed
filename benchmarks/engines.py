"""Compare the speed of the engines, and measure how a run scales with the numbers of clients and rounds.

    python benchmarks/engines.py [--repeats 5] [--scale] [--out benchmarks/results/engines.json]

The engines take turns in every repeat, so that other load on the machine affects all of them. The result is the
median, over the repeats, of the ratio to the sequential engine. Messages are encoded and decoded, as in any run. A case
that misses its target is measured again with three times as many repeats; if it misses again, the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fedloru import methods, models
from fedloru import net as nets
from fedloru.data import Examples
from fedloru.engine import Chosen, Task, choose
from fedloru.method import Method
from fedloru.methods.ranks import with_rank
from fedloru.recipe import Recipe
from fedloru.session import Job
from fedloru.wire import Channel

ENGINES = ("sequential", "fused", "auto")


class Case(NamedTuple):
    """One row of the table; ``least`` is the target: how many times as fast as sequential ``engine`` must be."""

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    clients: int
    batch: int
    steps: int
    rank: int
    targets: tuple[str, ...]
    engine: str
    least: float
    method: Callable[[], Method] = methods.fedloru


def _mlp() -> nn.Module:
    return models.build("mlp", channels=1, size=28, classes=10, seed=0)


def _cnn() -> nn.Module:
    return models.build("cnn", channels=1, size=28, classes=10, seed=0)


def _resnet() -> nn.Module:
    return models.build("resnet10", channels=3, size=32, classes=10, seed=0, width=16)


CASES = (
    Case("mlp 784-200-10", _mlp, (1, 28, 28), 50, 10, 20, 4, ("fc1",), "fused", 5.0),
    Case("mlp, FedAvg", _mlp, (1, 28, 28), 50, 10, 20, 4, ("fc1",), "fused", 1.0, methods.fedavg),
    Case("cnn of FedAvg", _cnn, (1, 28, 28), 10, 10, 10, 4, ("conv2", "fc1"), "fused", 1.3),
    Case("resnet10, width 16, batch 10", _resnet, (3, 32, 32), 10, 10, 3, 16, ("layer*",), "auto", 0.9),
    Case("resnet10, width 16, batch 32", _resnet, (3, 32, 32), 10, 32, 2, 16, ("layer*",), "auto", 0.9),
    Case("resnet10, FedAvg, batch 32", _resnet, (3, 32, 32), 10, 32, 2, 16, ("layer*",), "auto", 0.9, methods.fedavg),
    Case("cnn, FedAvg", _cnn, (1, 28, 28), 10, 10, 10, 4, (), "auto", 0.9, methods.fedavg),
)


def every_method() -> list[Case]:
    """Return a short case for each method, on the perceptron and on the convolutional network."""
    setups = [
        (_mlp, "mlp", 20, 5, ("fc1",)),
        (_cnn, "cnn", 10, 2, ("conv2", "fc1")),
    ]
    return [
        Case(f"{short_name}, {name}", model, (1, 28, 28), clients, 10, steps, 4, targets, "fused", 1.0, method)
        for model, short_name, clients, steps, targets in setups
        for name, method in methods.METHODS.items()
    ]


def examples(shape: tuple[int, ...], count: int = 2000) -> Examples:
    """Return random images; their content does not affect the speed."""
    g = torch.Generator().manual_seed(0)
    return {"x": torch.randn(count, *shape, generator=g), "y": torch.randint(0, 10, (count,), generator=g)}


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Return the seconds per round of each engine, and its median speed relative to the sequential engine."""
    method, data = case.method(), examples(case.shape)
    model = case.model()
    net = nets.attach(model, rank=case.rank, targets=case.targets) if method.traits.low_rank else nets.make(model)
    state = method.init(net, 0)
    recipe = Recipe(lr=0.05, momentum=0.9, batch_size=case.batch, steps=case.steps)
    low_rank = with_rank(2) if method.ranks == "different" else ()
    profiles = [low_rank if k % 2 else () for k in range(case.clients)]
    jobs = [Job(k, torch.arange(k * 37, k * 37 + 100) % 2000, {}, profiles[k]) for k in range(case.clients)]
    jobs.sort(key=lambda job: job.profile)
    engines = {name: choose(name, net, method, state, data, recipe) for name in ENGINES}

    def seconds(engine: Chosen) -> float:
        task = Task(state, jobs, recipe, 0, Channel(net, method.name, "benchmark", "fp32"))
        start = time.perf_counter()
        engine.run(task)
        return time.perf_counter() - start

    for engine in engines.values():
        seconds(engine)  # warm-up
    times = [{name: seconds(engine) for name, engine in engines.items()} for _ in range(repeats)]
    ratios = {name: statistics.median(t["sequential"] / t[name] for t in times) for name in ENGINES}
    return {
        "case": case.name,
        "method": method.name,
        "clients": case.clients,
        "batch": case.batch,
        "rank": case.rank,
        "seconds": {name: statistics.median(t[name] for t in times) for name in ENGINES},
        "ratio": ratios,
        "auto": f"{engines['auto'].name}: {engines['auto'].reason}",
        "engine": case.engine,
        "least": case.least,
        "reached": ratios[case.engine] >= case.least,
    }


def settled(case: Case, repeats: int) -> dict[str, Any]:
    """Return the result of ``measure``, with three times as many repeats if the first result misses the target."""
    row = measure(case, repeats)
    return row if row["reached"] else measure(case, 3 * repeats)


def misses(cases: list[dict[str, Any]]) -> list[str]:
    """Return a message for each case that misses its target."""
    return [
        f"{row['case']}: {row['engine']} reached {row['ratio'][row['engine']]:.2f}×, "
        f"{row['least'] - row['ratio'][row['engine']]:.2f} below the target of {row['least']}×"
        for row in cases
        if not row["reached"]
    ]


SCALE = """
import json, resource, statistics, sys, tempfile, time
start = time.process_time()
import torch
import fedloru as fl
from fedloru import data, models
torch.set_num_threads(1)
clients, rounds = int(sys.argv[1]), int(sys.argv[2])
g, examples = torch.Generator().manual_seed(0), max(20_000, 3 * clients // 2)
train = {"x": torch.randn(examples, 8, generator=g), "y": torch.randint(10, (examples,), generator=g)}
test = {key: value[:500].clone() for key, value in train.items()}
dataset = data.Dataset("random", train, test, [str(label) for label in range(10)])
imported = time.process_time()
net = fl.attach(models.build("mlp", channels=8, size=1, classes=10, seed=0), rank=4, targets=("fc1",))
settings = dict(rounds=rounds, cohort=100, recipe=fl.Recipe(lr=0.05, batch_size=10, steps=5), eval_every=10)
run = fl.run(net, fl.fedloru(tau=5), dataset, data.iid(dataset, clients), **settings, out=tempfile.mkdtemp() + "/run")
ready = time.process_time() - imported
tensors, rest = run.last.ledger  # as if all clients had been in contact before
run.last = run.last._replace(ledger=(tensors | {"held": torch.zeros(clients, dtype=torch.int64)}, rest))
rss, seconds, before = [], [], time.process_time()
for row in run:
    rss.append(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize())
    seconds.append(time.process_time() - before)
    before = time.process_time()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"clients": clients, "rounds": rounds, "ready_seconds": ready, "rss_bytes": [rss[1], rss[-1], peak],
                  "seconds_a_round": statistics.median(seconds[1:])}))
"""


def scale() -> list[dict[str, Any]]:
    """Return start-up time and memory for growing numbers of clients and rounds, each measured in its own process.

    Times are CPU seconds of one thread, start-up without imports and the data set. Every run has a folder. Resident
    memory is read from /proc after the second and after the last round, so this part requires Linux.
    """
    results = []
    for clients, rounds in ((1_000, 20), (10_000, 20), (10_000, 200), (100_000, 20), (1_000_000, 20)):
        process = subprocess.run(
            [sys.executable, "-c", SCALE, str(clients), str(rounds)], capture_output=True, text=True, check=True
        )
        results.append(json.loads(process.stdout))
    return results


def show(cases: list[dict[str, Any]], scaling: list[dict[str, Any]]) -> None:
    """Print both tables."""
    table = Table(title="Seconds per round, and speed relative to the sequential engine")
    for column in ("case", "method", "clients", "batch", *ENGINES, "target", "auto chose"):
        table.add_column(column)
    for row in cases:
        engines = [f"{row['seconds'][name]:.3f} s, {row['ratio'][name]:.2f}×" for name in ENGINES]
        verdict = f"{row['engine']} ≥ {row['least']}× {'✓' if row['reached'] else '✗'}"
        cells = [row["case"], row["method"], str(row["clients"]), str(row["batch"]), *engines, verdict]
        table.add_row(*cells, row["auto"].split(":")[0])
    scale_table = Table(title="100 clients per round, MLP 8-200-10, FedLoRU, all clients in contact before; CPU time")
    for column in ("clients", "rounds", "start-up", "memory, round 2", "memory, last round", "peak", "time per round"):
        scale_table.add_column(column, justify="right")
    for row in scaling:
        memory = [f"{rss / 1e6:.0f} MB" for rss in row["rss_bytes"]]
        seconds = f"{row['seconds_a_round']:.3f} s"
        start_up = f"{row['ready_seconds']:.1f} s"
        scale_table.add_row(f"{row['clients']:,}", str(row["rounds"]), start_up, *memory, seconds)
    console = Console(width=160)
    if cases:
        console.print(table)
    console.print(scale_table)


def main() -> None:
    """Run the benchmark, then print and save the results.

    Raises:
        SystemExit: a case missed its target.
    """
    parser = argparse.ArgumentParser(description="Compare the speed of the engines.")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds per engine and case (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engines.json"), help="output JSON file")
    parser.add_argument("--scale", action="store_true", help="measure only numbers of clients and rounds")
    arguments = parser.parse_args()
    if arguments.scale:
        show([], scale())
        return
    cases = [settled(case, arguments.repeats) for case in CASES]
    cases += [settled(case, min(3, arguments.repeats)) for case in every_method()]
    scaling = scale()
    show(cases, scaling)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "processor": platform.machine()}
    arguments.out.write_text(json.dumps({"machine": machine, "cases": cases, "scale": scaling}, indent=2))
    print(f"saved to {arguments.out}")
    if missed := misses(cases):
        sys.exit("missed targets:\n" + "\n".join(missed))


if __name__ == "__main__":
    main()
