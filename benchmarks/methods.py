"""Compare all methods on the same data, cohorts, seeds and local training, by accuracy and by MB sent.

    python benchmarks/methods.py [--quick] [--seeds 3] [--rounds N] [--data-dir DIR] [--out benchmarks/results/methods]

There are 100 clients, 10 of them per round. The default task is MNIST-5k with the perceptron 784-200-10. With
``--data-dir``, it is CIFAR-10, read from the parquet files in that folder, with a ResNet-8 of width 16; only the first
10,000 rows are used, which two cores can train on (the files are shuffled). Each task runs with IID and Dirichlet
partitions, and every client holds out a fifth of its examples. ``--quick`` runs one seed and fewer rounds. The tables
are printed at the end, and saved as JSON and Markdown after every seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import fedloru as fl
from fedloru import methods, models
from fedloru.client import train
from fedloru.data import Dataset, Partition
from fedloru.evaluate import evaluate, shared_model
from fedloru.method import Down, Method
from fedloru.personal import spread
from fedloru.recipe import Recipe
from fedloru.run.capacities import capacities
from fedloru.run.loop import Run
from fedloru.run.plan import Plan
from fedloru.session import Job, Session

CLIENTS, COHORT = 100, 10


class Contender(NamedTuple):
    """A row of the table; ``shares`` maps a rank to the share of clients that cannot train a higher one."""

    label: str
    method: Callable[[], Method]
    shares: dict[int, float] = {}


class Task(NamedTuple):
    """A data set, a model, and the settings of local training."""

    name: str
    data: Dataset
    model: str
    settings: dict[str, Any]
    targets: tuple[str, ...]
    rank: int
    rounds: int
    recipe: Recipe
    alphas: tuple[float, ...]


def contenders(rank: int, tau: int, lr: float) -> list[Contender]:
    """Return all methods; those that support different ranks also run with half of the clients at rank / 4."""
    half_low_rank = {max(1, rank // 4): 0.5}
    return [
        Contender("FedAvg", methods.fedavg),
        Contender("FedAvg + SCAFFOLD", lambda: methods.scaffold(methods.fedavg(), lr=lr, clients=CLIENTS)),
        Contender("FedLoRA", methods.fedlora),
        Contender("FFA-LoRA", methods.ffalora),
        Contender("RoLoRA", methods.rolora),
        Contender("FedSA-LoRA", methods.fedsa),
        Contender("FLoRA", methods.flora),
        Contender("FedEx-LoRA", methods.fedex),
        Contender("FlexLoRA", methods.flexlora),
        Contender("FlexLoRA, half at r/4", methods.flexlora, half_low_rank),
        Contender("HetLoRA, half at r/4", methods.hetlora, half_low_rank),
        Contender("FedHM", methods.fedhm),
        Contender("FedHM, half at r/4", methods.fedhm, half_low_rank),
        Contender("FedLMT", methods.fedlmt),
        Contender("FedPara", methods.fedpara),
        Contender("pFedPara", lambda: methods.fedpara(personal=True)),
        Contender("FedMUD + AAD", lambda: methods.fedmud(interval=tau)),
        Contender(f"FedLoRU τ={tau}", lambda: methods.fedloru(recipe="paper", tau=tau)),
        Contender(f"FedLoRU τ={tau}, exact", lambda: methods.fedloru(recipe="paper", tau=tau, accumulate="exact")),
        Contender(f"mFedLoRU τ={tau}, half at r/4", lambda: methods.mfedloru(tau=tau), half_low_rank),
        Contender(f"pFedLoRU τ={tau}", lambda: methods.pfedloru(tau=tau)),
    ]


def mnist(quick: bool) -> Task:
    """Return the task with MNIST-5k, which ships with the package."""
    recipe = Recipe(lr=0.1, momentum=0.9, batch_size=10, epochs=2, clip=1.0)
    data = fl.data.load("mnist5k")
    return Task("MNIST-5k", data, "mlp", {}, ("fc1",), 8, 20 if quick else 60, recipe, (0.3, 0.1))


def cifar(folder: Path, quick: bool) -> Task:
    """Return the task with the first rows of a copy of CIFAR-10."""
    recipe = Recipe(lr=0.1, momentum=0.9, batch_size=10, epochs=1, clip=1.0, flip=True)
    data = first(fl.data.load("parquet", path=str(folder / "cifar10")), *((2_000, 500) if quick else (10_000, 1_000)))
    return Task("CIFAR-10 copy", data, "resnet8", {"width": 16}, ("layer*",), 8, 4 if quick else 24, recipe, (0.3,))


def first(data: Dataset, train: int, test: int) -> Dataset:
    """Return ``data`` with only its first ``train`` training and ``test`` test examples."""
    return data._replace(
        train={key: value[:train] for key, value in data.train.items()},
        test={key: value[:test] for key, value in data.test.items()},
    )


def partitions(data: Dataset, seed: int, alphas: tuple[float, ...]) -> Iterator[tuple[str, Partition]]:
    """Yield the partitions of one seed."""
    yield "IID", fl.data.iid(data, CLIENTS, seed, test_fraction=0.2)
    for alpha in alphas:
        yield f"Dirichlet {alpha}", fl.data.dirichlet(data, CLIENTS, alpha, seed, min_examples=1, test_fraction=0.2)


def run(task: Task, contender: Contender, partition: Partition, seed: int) -> tuple[Run, dict[str, Any]]:
    """Train one contender, and return the run and its results: accuracies, MB sent and seconds."""
    method = contender.method()
    channels, size = task.data.train["x"].shape[1:3]
    model = models.build(
        task.model, channels=channels, size=size, classes=len(task.data.classes), seed=seed, **task.settings
    )
    net = (
        fl.attach(model, rank=task.rank, alpha=2 * task.rank, targets=task.targets)
        if method.traits.low_rank
        else fl.make(model)
    )
    profiles = capacities(CLIENTS, contender.shares, seed) if contender.shares else ()
    plan = Plan(
        net,
        method,
        task.data,
        partition,
        rounds=task.rounds,
        cohort=COHORT,
        recipe=task.recipe,
        seed=seed,
        eval_every=task.rounds,  # personal models are evaluated once, at the end
        profiles=profiles,
        diagnostics=False,
    )
    training = Run(plan)
    last_rows = [
        (row, evaluate(net, training.tensors, task.data.test).accuracy)
        for row in training
        if row["round"] > task.rounds - 5
    ]
    summary = training.summary()
    personal = last_rows[-1][0]["personal"]
    return training, {
        "accuracy": statistics.mean(accuracy for _, accuracy in last_rows),
        "mb": (summary["up_bytes_total"] + summary["down_bytes_total"]) / 1e6,
        "shared": personal["shared"]["mean"],
        "personal": personal["personal"]["mean"] if "personal" in personal else None,
        "worst": personal.get("personal", personal["shared"])["bottom_decile"],
        "seconds": summary["seconds"],
    }


def finetuned(run: Run, epochs: int = 2) -> dict[str, float]:
    """Return the personal accuracies after each client has fine-tuned the shared model on its own examples."""
    plan, state = run.plan, run.state
    shared = shared_model(plan.net, plan.method, state)
    down = Down(state.shared, {}, state.seed, state.round + 1)
    session = Session(
        plan.net,
        plan.method,
        state.base,
        down,
        plan.dataset.train,
        plan.recipe._replace(epochs=epochs),
        0,
        state.round + 1,
    )
    scores = []
    for client, rows in enumerate(plan.partition.test):
        if len(rows):
            tuned = shared | train(session, Job(client, plan.partition.train[client])).up.shared
            held_out = {key: value[rows] for key, value in plan.dataset.train.items()}
            scores.append(evaluate(plan.net, tuned, held_out))
    statistics_over_clients = spread(scores)
    return {"personal": statistics_over_clients.mean, "worst": statistics_over_clients.bottom_decile}


def measure(task: Task, seed: int) -> Iterator[dict[str, Any]]:
    """Yield one record per partition and contender."""
    for scheme, partition in partitions(task.data, seed, task.alphas):
        for contender in contenders(task.rank, max(5, task.rounds // 5), task.recipe.lr):
            start = time.perf_counter()
            training, results = run(task, contender, partition, seed)
            record = {"task": task.name, "partition": scheme, "seed": seed, "method": contender.label, **results}
            yield record
            if contender.label == "FedAvg":
                yield {**record, "method": "FedAvg, then finetune", **finetuned(training)}
            message = f"{task.name} {scheme} seed {seed} {contender.label}: accuracy {results['accuracy']:.3f}"
            print(f"{message} in {time.perf_counter() - start:.1f} s", file=sys.stderr)


def table(records: list[dict[str, Any]]) -> str:
    """Return the records as Markdown tables, with mean ± standard deviation over seeds."""
    lines = []
    for task, scheme in dict.fromkeys((r["task"], r["partition"]) for r in records):
        group = [r for r in records if (r["task"], r["partition"]) == (task, scheme)]
        lines += [
            f"\n**{task}, {scheme}**\n",
            "| method | accuracy | personal | worst tenth | MB |",
            "|---|---|---|---|---|",
        ]
        for label in dict.fromkeys(r["method"] for r in group):
            same_method = [r for r in group if r["method"] == label]
            cells = [_cell([r[key] for r in same_method]) for key in ("accuracy", "personal", "worst")]
            lines.append(f"| {label} | {' | '.join(cells)} | {statistics.mean(r['mb'] for r in same_method):,.1f} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.3f}{spread}"


def main() -> None:
    """Run the benchmark, then print and save the results."""
    parser = argparse.ArgumentParser(description="Compare all methods on the same data and local training.")
    parser.add_argument("--quick", action="store_true", help="run one seed and fewer rounds")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--rounds", type=int, help="number of rounds (default: depends on the task)")
    parser.add_argument("--data-dir", type=Path, help="a folder with cifar10_train.parquet and cifar10_test.parquet")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/methods"), help="output path without the suffix"
    )
    arguments = parser.parse_args()
    quick = arguments.quick
    task = cifar(arguments.data_dir, quick) if arguments.data_dir else mnist(quick)
    task = task._replace(rounds=arguments.rounds or task.rounds)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for seed in range(1 if quick else arguments.seeds):
        records += measure(task, seed)
        arguments.out.with_suffix(".json").write_text(json.dumps(records, indent=2))
        arguments.out.with_suffix(".md").write_text(table(records))
    print(table(records))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
