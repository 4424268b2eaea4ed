"""Compare client settings, to choose the defaults: accuracy of low-rank methods on several models and data sets.

    python benchmarks/defaults.py --data-dir DIR [--seeds 1] [--models mlp,cnn] [--methods FedLoRU]

Every task has 4,000 training and 1,000 test images, 10 clients by Dirichlet(0.3), 5 of them per round, 20 rounds and
rank 4; FedLoRU merges every 5 rounds. Nothing else is set but what a candidate changes. DIR has the parquet files
``mnist_train``, ``mnist_test``, ``cifar10_train`` and ``cifar10_test``. A run that diverges counts as chance. Results
are saved after every run, and runs that are already in the file are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import fedloru as fl
from fedloru import methods, models
from fedloru.data import Dataset
from fedloru.errors import TrainingError
from fedloru.recipe import Recipe

TRAIN, TEST, CLIENTS, COHORT, ROUNDS, RANK, TAU = 4_000, 1_000, 10, 5, 20, 4, 5
CHANCE = 0.1

TASKS = {
    "mlp on MNIST": ("mnist", "mlp", {}),
    "cnn on MNIST": ("mnist", "cnn", {"width": 16}),
    "mlp on CIFAR-10": ("cifar10", "mlp", {}),
    "cnn on CIFAR-10": ("cifar10", "cnn", {"width": 16}),
    "resnet8 on CIFAR-10": ("cifar10", "resnet8", {"width": 16}),
}
METHODS = {
    "FedAvg": methods.fedavg,
    "FedLoRA": methods.fedlora,
    "FedLoRU": lambda: methods.fedloru(tau=TAU),
    "FFA-LoRA": methods.ffalora,
}


class Candidate(NamedTuple):
    """Client settings, and the scale α/r."""

    recipe: Recipe
    scale: float = 2.0


CHOSEN = Recipe(lr=0.05, momentum=0.9, clip=1.0, batch_size=10, schedule="cosine")
CANDIDATES = {
    "chosen": Candidate(CHOSEN),
    "earlier": Candidate(Recipe(lr=0.1, momentum=0.0, clip=None, batch_size=32, schedule="constant"), 1.0),
    "lr 0.03": Candidate(CHOSEN._replace(lr=0.03)),
    "lr 0.1": Candidate(CHOSEN._replace(lr=0.1)),
    "lr 0.3": Candidate(CHOSEN._replace(lr=0.3)),
    "no momentum": Candidate(CHOSEN._replace(momentum=0.0)),
    "no clipping": Candidate(CHOSEN._replace(clip=None)),
    "batch 32": Candidate(CHOSEN._replace(batch_size=32)),
    "constant": Candidate(CHOSEN._replace(schedule="constant")),
    "scale 1": Candidate(CHOSEN, 1.0),
    "scale 4": Candidate(CHOSEN, 4.0),
}


def load(folder: Path, name: str) -> Dataset:
    """Return the first examples of a data set; the files are shuffled."""
    data = fl.data.load("parquet", path=str(folder / name))
    return data._replace(
        train={key: value[:TRAIN] for key, value in data.train.items()},
        test={key: value[:TEST] for key, value in data.test.items()},
    )


def accuracy(data: Dataset, model: str, settings: dict[str, Any], method: str, tried: Candidate, seed: int) -> float:
    """Return the mean test accuracy of the last three rounds; that of chance, if the run diverges."""
    channels, size = data.train["x"].shape[1:3]
    built = models.build(model, channels=channels, size=size, classes=len(data.classes), seed=seed, **settings)
    made = METHODS[method]()
    net = fl.attach(built, rank=RANK, alpha=tried.scale * RANK) if made.traits.low_rank else fl.make(built)
    clients = fl.data.dirichlet(data, CLIENTS, 0.3, seed)
    run = fl.run(
        net, made, data, clients, rounds=ROUNDS, cohort=COHORT, recipe=tried.recipe, seed=seed, diagnostics=False
    )
    try:
        return statistics.mean(row["test_accuracy"] for row in list(run)[-3:])
    except TrainingError:
        return CHANCE


def measure(
    folder: Path, models: list[str], chosen: list[str], seeds: int, done: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield one record per run that is not among ``done``."""
    known = {(r["candidate"], r["task"], r["method"], r["seed"]) for r in done}
    loaded = {name: load(folder, name) for name in ("mnist", "cifar10")}
    for seed in range(seeds):
        for candidate, tried in CANDIDATES.items():
            for task, (name, model, settings) in TASKS.items():
                for method in chosen if model in models else ():
                    if (candidate, task, method, seed) in known:
                        continue
                    start = time.perf_counter()
                    score = accuracy(loaded[name], model, settings, method, tried, seed)
                    print(
                        f"{candidate}, {task}, {method}: {score:.3f}, {time.perf_counter() - start:.0f} s",
                        file=sys.stderr,
                    )
                    yield {"candidate": candidate, "task": task, "method": method, "seed": seed, "accuracy": score}


def table(records: list[dict[str, Any]]) -> str:
    """Return accuracies in %, and the mean and the minimum over tasks of each low-rank method's ratio to the best."""
    tasks = list(dict.fromkeys(r["task"] for r in records))
    scores: dict[tuple[str, str, str], float] = {}
    for key in dict.fromkeys((r["candidate"], r["task"], r["method"]) for r in records):
        same = [r["accuracy"] for r in records if (r["candidate"], r["task"], r["method"]) == key]
        scores[key] = 100 * statistics.mean(same)
    lines = []
    for method in METHODS:
        lines += [f"\n**{method}**\n", f"| settings | {' | '.join(tasks)} | mean of best | worst of best |"]
        lines += ["|---" * (len(tasks) + 3) + "|"]
        for candidate in CANDIDATES:
            cells = [scores.get((candidate, task, method)) for task in tasks]
            if None in cells:
                continue
            best = [max(v for (_, t, m), v in scores.items() if (t, m) == (task, method)) for task in tasks]
            ratios = [cell / top for cell, top in zip(cells, best, strict=True)]
            shown = " | ".join(f"{cell:.1f}" for cell in cells)
            lines.append(f"| {candidate} | {shown} | {statistics.mean(ratios):.3f} | {min(ratios):.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark, then print and save the results."""
    parser = argparse.ArgumentParser(description="Compare client settings on several models and data sets.")
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="a folder with MNIST and CIFAR-10 as parquet files"
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: 1)")
    parser.add_argument("--models", default="mlp,cnn,resnet8", help="models to run (default: all)")
    parser.add_argument("--methods", default=",".join(METHODS), help="methods to run (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/defaults"), help="output path without the suffix"
    )
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    saved = arguments.out.with_suffix(".json")
    records: list[dict[str, Any]] = json.loads(saved.read_text()) if saved.exists() else []
    chosen = [arguments.models.split(","), arguments.methods.split(",")]
    for record in measure(arguments.data_dir, *chosen, arguments.seeds, list(records)):
        records.append(record)
        saved.write_text(json.dumps(records, indent=2))
    arguments.out.with_suffix(".md").write_text(table(records))
    print(table(records))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
