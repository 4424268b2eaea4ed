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
    "FedLoRU": lambda: methods.fedloru(recipe="paper", tau=TAU),
    "FFA-LoRA": methods.ffalora,
}


class Candidate(NamedTuple):
    """Client settings, and the scale α/r."""

    recipe: Recipe
    scale: float = 2.0


CHOSEN = Recipe(lr=0.1, momentum=0.9, clip=1.0, batch_size=10, schedule="cosine")
SLOWER = CHOSEN._replace(lr=0.05)
CANDIDATES = {
    "chosen": Candidate(CHOSEN),
    "earlier": Candidate(Recipe(lr=0.1, momentum=0.0, clip=None, batch_size=32, schedule="constant"), 1.0),
    "lr 0.3": Candidate(CHOSEN._replace(lr=0.3)),
    "lr 0.05": Candidate(SLOWER),
    "lr 0.03": Candidate(CHOSEN._replace(lr=0.03)),
    "lr 0.05, no momentum": Candidate(SLOWER._replace(momentum=0.0)),
    "lr 0.05, no clipping": Candidate(SLOWER._replace(clip=None)),
    "lr 0.05, batch 32": Candidate(SLOWER._replace(batch_size=32)),
    "lr 0.05, constant": Candidate(SLOWER._replace(schedule="constant")),
    "lr 0.05, scale 1": Candidate(SLOWER, 1.0),
    "lr 0.05, scale 4": Candidate(SLOWER, 4.0),
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
    """Return the mean accuracies in % as one Markdown table per method; – if there is no run."""
    lines = []
    for method in dict.fromkeys(r["method"] for r in records):
        lines += [f"\n**{method}**\n", f"| settings | {' | '.join(TASKS)} |", "|---" * (len(TASKS) + 1) + "|"]
        for candidate in CANDIDATES:
            cells = [_cell(records, method, candidate, task) for task in TASKS]
            lines.append(f"| {candidate} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(records: list[dict[str, Any]], method: str, candidate: str, task: str) -> str:
    wanted = (method, candidate, task)
    found = [r["accuracy"] for r in records if (r["method"], r["candidate"], r["task"]) == wanted]
    return f"{100 * statistics.mean(found):.1f}" if found else "–"


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
