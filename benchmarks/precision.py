"""Compare local training in bf16 with float32: test accuracy, the error of an update, and speed.

    python benchmarks/precision.py [--data-dir DIR] [--seeds 3] [--repeats 7] [--out benchmarks/results/precision]

MNIST-5k: 20 clients, 10 per round, rank 8, the default settings of a client; a perceptron for 20 rounds, a CNN of width
16 for 10. With DIR, which has the parquet files ``cifar10_train`` and ``cifar10_test``, also a ResNet-10 of width 16 on
2,000 images: 10 clients, 5 per round, 6 rounds. The accuracy is the mean of the last three rounds. The error of an
update is ‖ΔW_bf16 − ΔW‖ / ‖ΔW‖ over what one round changes. Speed is the CPU time of a round of local training with one
thread, the median ratio to float32 in the same engine, in turns. Runs that are already in OUT.json are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

import fedloru as fl
from fedloru import methods, models, tree
from fedloru.data import Dataset
from fedloru.engine import Chosen, Task, choose
from fedloru.method import Method, State
from fedloru.net import Net
from fedloru.recipe import Precision, Recipe
from fedloru.run.plan import Plan
from fedloru.session import Job
from fedloru.wire import Channel

METHODS: dict[str, Callable[[], Method]] = {
    "FedAvg": methods.fedavg,
    "FedLoRU": lambda: methods.fedloru(recipe="paper", tau=5),
}
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
ENGINES = ("sequential", "fused")
LAST = 3


class Case(NamedTuple):
    """A model on a data set."""

    model: str
    settings: dict[str, Any]
    clients: int
    cohort: int
    rounds: int
    batch: int = 10


MNIST = {"MLP, MNIST-5k": Case("mlp", {}, 20, 10, 20), "CNN, MNIST-5k": Case("cnn", {"width": 16}, 20, 10, 10)}
CIFAR = {"ResNet-10, CIFAR-10": Case("resnet10", {"width": 16}, 10, 5, 6, 32)}


def load_cifar(folder: Path) -> Dataset:
    """Return the first 2,000 training and 1,000 test images; the files are shuffled."""
    data = fl.data.load("parquet", path=str(folder / "cifar10"))
    return data._replace(train=tree.map(lambda t: t[:2_000], data.train), test=tree.map(lambda t: t[:1_000], data.test))


def plan_of(case: Case, data: Dataset, method: str, precision: Precision, seed: int) -> Plan:
    """Return a run of ``case``."""
    channels, side = data.train["x"].shape[1:3]
    model = models.build(
        case.model, channels=channels, size=side, classes=len(data.classes), seed=seed, **case.settings
    )
    made = METHODS[method]()
    net = fl.attach(model, rank=8) if made.traits.low_rank else fl.make(model)
    clients = fl.data.iid(data, case.clients, seed)
    recipe = Recipe(batch_size=case.batch, precision=precision)
    return Plan(net, made, data, clients, rounds=case.rounds, cohort=case.cohort, recipe=recipe, seed=seed)


def accuracy(plan: Plan) -> float:
    """Return the mean test accuracy of the last rounds."""
    names = ("rounds", "cohort", "recipe", "seed")
    settings = {name: getattr(plan, name) for name in names}
    run = fl.run(plan.net, plan.method, plan.dataset, plan.partition, diagnostics=False, **settings)
    return statistics.mean(row["test_accuracy"] for row in list(run)[-LAST:])


class Round(NamedTuple):
    """The first round of a run, trained by one engine in one precision."""

    plan: Plan
    state: State
    engine: Chosen

    def total(self) -> State:
        """Train the cohort, and return the state after the round."""
        net, method, recipe = self.plan.net, self.plan.method, self.plan.recipe
        jobs = [Job(client, self.plan.partition.train[client]) for client in range(self.plan.cohort)]
        task = Task(self.state, jobs, recipe, 0, Channel(net, method.name, "benchmark", "exact"))
        return method.server(net, self.state, self.engine.run(task).total)

    def seconds(self) -> float:
        """Return the CPU time of local training."""
        start = time.process_time()
        self.total()
        return time.process_time() - start


def first_round(plan: Plan, engine: str) -> Round:
    """Return the first round of ``plan``."""
    state = plan.method.init(plan.net, 0)
    return Round(plan, state, choose(engine, plan.net, plan.method, state, plan.dataset.train, plan.recipe))


def error(rounds: dict[Precision, Round]) -> float:
    """Return the relative error of what a round in bf16 changes."""
    changes = {
        precision: _flat(one.plan.net, tree.sub(one.total().shared, one.state.shared))
        for precision, one in rounds.items()
    }
    return float((changes["bf16"] - changes["full"]).norm() / changes["full"].norm())


def _flat(net: Net, change: tree.Params) -> torch.Tensor:
    return torch.cat([change[key].double().flatten() for key in sorted(change.keys() & (net.trainable | net.factors))])


def measure(case: Case, data: Dataset, method: str, repeats: int) -> dict[str, Any]:
    """Return the speed of bf16 in each engine, and the error of an update."""
    result: dict[str, Any] = {}
    for engine in ENGINES:
        rounds = {p: first_round(plan_of(case, data, method, p, 0), engine) for p in PRECISIONS}
        result[f"error {engine}"] = error(rounds)
        times = [{p: one.seconds() for p, one in rounds.items()} for _ in range(repeats)]
        result[f"speed {engine}"] = statistics.median(t["full"] / t["bf16"] for t in times)
    return result


def records(
    cases: dict[str, Case], data: Dataset, seeds: int, repeats: int, known: set[str]
) -> Iterator[dict[str, Any]]:
    """Yield one record per run, and one per speed, whose names are not in ``known``."""
    for name, case in cases.items():
        for method in METHODS:
            head = f"{name}, {method}"
            if head not in known:
                yield {"name": head, "case": name, "method": method, **measure(case, data, method, repeats)}
            for seed in range(seeds):
                for precision in PRECISIONS:
                    run = f"{head}, {precision}, seed {seed}"
                    if run not in known:
                        score = accuracy(plan_of(case, data, method, precision, seed))
                        yield {"name": run, "head": head, "precision": precision, "accuracy": score}


def table(found: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    columns = ["accuracy, full", "accuracy, bf16", "error of an update", *(f"speed, {engine}" for engine in ENGINES)]
    lines = [f"| model | method | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for row in (record for record in found if "case" in record):
        scores = [
            _spread([r["accuracy"] for r in found if (r.get("head"), r.get("precision")) == (row["name"], p)])
            for p in PRECISIONS
        ]
        errors = "–".join(sorted({f"{100 * row[f'error {engine}']:.1f}" for engine in ENGINES}, key=float))
        speeds = [f"{row[f'speed {engine}']:.2f}×" for engine in ENGINES]
        lines.append(f"| {' | '.join([row['case'], row['method'], *scores, f'{errors} %', *speeds])} |")
    return "\n".join(lines) + "\n"


def _spread(scores: list[float]) -> str:
    if len(scores) < 2:
        return "–" if not scores else f"{100 * scores[0]:.1f}"
    return f"{100 * statistics.mean(scores):.1f} ± {100 * statistics.stdev(scores):.1f}"


def main() -> None:
    """Run the benchmark, then print and save the results."""
    parser = argparse.ArgumentParser(description="Compare local training in bf16 with float32.")
    parser.add_argument("--data-dir", type=Path, help="a folder with CIFAR-10 as parquet files")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds per engine and precision (default: 7)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/precision"), help="path without suffix")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    saved = arguments.out.with_suffix(".json")
    found: list[dict[str, Any]] = json.loads(saved.read_text()) if saved.exists() else []
    parts = [(MNIST, fl.data.load("mnist5k"))]
    if arguments.data_dir:
        parts.append((CIFAR, load_cifar(arguments.data_dir)))
    for cases, data in parts:
        for record in records(cases, data, arguments.seeds, arguments.repeats, {record["name"] for record in found}):
            print(record, file=sys.stderr)
            found.append(record)
            saved.write_text(json.dumps(found, indent=2))
    arguments.out.with_suffix(".md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
