"""Do client gradients agree better when truncated to low rank? Measurements, compared with chance.

    python benchmarks/alignment.py [--seeds 5] [--out benchmarks/results/alignment] [--pictures DIR]

Setup: MNIST-5k, a 784-200-10 perceptron, 20 clients, IID and Dirichlet(0.3); the shared model at the start and after 5
and 30 rounds of FedAvg. A client's gradient is the gradient of its mean loss over all its examples. In addition to the
cosines, the benchmark measures the share of each gradient in the span of the top ten eigenvectors of the server's
Hessian (10/n by chance), and how much of these eigenvectors lies in the span of all client gradients (20/n by chance).
Results are means ± standard deviations over seeds; each seed has its own partition, initial model and training. It does
for many models what ``fedloru align`` does for one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import fedloru as fl
from fedloru.analysis.alignment import Agreement
from fedloru.analysis.figures import save
from fedloru.analysis.gradients import agreement, eigenspace, gradients
from fedloru.analysis.objective import Objective, objective
from fedloru.analysis.pictures import alignment
from fedloru.analysis.study import Subject
from fedloru.data import Dataset, Partition

CLIENTS, TOP = 20, 10
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
ROUNDS = (0, 5, 30)
SHOWN = ("fc1.weight", "fc2.weight", "all")

Record = dict[str, Any]


def partitions(data: Dataset, seed: int) -> dict[str, Partition]:
    """Return the partitions by name."""
    return {
        "IID": fl.data.iid(data, CLIENTS, seed),
        "Dirichlet 0.3": fl.data.dirichlet(data, CLIENTS, 0.3, seed, min_examples=10),
    }


def models(data: Dataset, partition: Partition, seed: int) -> Iterator[tuple[int, Objective]]:
    """Yield the loss of the shared model over all clients' examples, after each of ``ROUNDS``."""
    net = fl.make(fl.models.build("mlp", channels=1, size=28, classes=10, seed=seed))
    recipe = fl.Recipe(lr=0.1, batch_size=10, clip=1.0)
    run = fl.run(net, fl.fedavg(), data, partition, rounds=max(ROUNDS), cohort=10, recipe=recipe, seed=seed)
    for target in ROUNDS:
        for _ in islice(run, target - run.state.round):
            pass
        yield target, objective(net, run.tensors, data.train, batch_size=1000)


def measure(data: Dataset, name: str, partition: Partition, seed: int) -> Iterator[Record]:
    """Yield one record for each of ``ROUNDS``."""
    clients = [Subject(f"client {client}", rows, client) for client, rows in enumerate(partition.train)]
    for rounds, whole in models(data, partition, seed):
        start = time.perf_counter()
        computed = list(gradients(whole, data.train, clients))
        by_weight = {key: [row._asdict() for row in rows] for key, rows in agreement(computed, RANKS).items()}
        space = eigenspace(whole, computed, TOP, seed, lambda: None)
        yield {"partition": name, "round": rounds, "seed": seed, "agreement": by_weight, "eigenspace": space}
        print(f"{name}, round {rounds}, seed {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


def cells(records: Sequence[Record]) -> dict[tuple[str, int], list[Record]]:
    """Return the records of all seeds, grouped by partition and round."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record["partition"], record["round"]), []).append(record)
    return groups


def over_seeds(records: Sequence[Record], weight: str) -> list[Agreement]:
    """Return the mean over seeds for each rank; the errors are the standard deviations of cosine and gain."""
    by_rank = zip(*(record["agreement"][weight] for record in records), strict=True)
    return [_mean([Agreement(**row) for row in rows]) for rows in by_rank]


def _mean(rows: Sequence[Agreement]) -> Agreement:
    if len(rows) == 1:
        return rows[0]
    cosine, gain, chance, energy, shared = (
        [getattr(row, field) for row in rows] for field in ("cosine", "gain", "chance", "energy", "shared")
    )
    return Agreement(
        rows[0].rank,
        statistics.mean(cosine),
        statistics.stdev(cosine),
        statistics.mean(gain),
        statistics.stdev(gain),
        statistics.mean(chance),
        statistics.mean(energy),
        statistics.mean(shared),
    )


def table(records: Sequence[Record], weight: str) -> str:
    """Return a Markdown table of the agreement at one weight, with one line per partition and round."""
    heads = ["full", *(f"gain at r = {rank}" for rank in RANKS), "by chance", *(f"energy at {r}" for r in RANKS)]
    lines = [f"\n**{weight}**\n", f"| clients | round | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for (name, rounds), group in cells(records).items():
        *truncated, full = over_seeds(group, weight)
        columns = [
            f"{full.cosine:.3f} ± {full.error:.3f}",
            *(f"{row.gain:+.3f} ± {row.gain_error:.3f}" for row in truncated),
        ]
        columns += [f"{full.chance:.4f}", *(f"{row.energy:.2f}" for row in truncated)]
        lines.append(f"| {name} | {rounds} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def spaces(records: Sequence[Record]) -> str:
    """Return a Markdown table of the overlap between gradients and the Hessian's top eigenvectors."""
    heads = ("clients", "round", "share, mean", "share, minimum", "by chance", "overlap", "by chance")
    lines = [f"\n| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (name, rounds), group in cells(records).items():
        eigenspaces = [record["eigenspace"] for record in group]
        columns = [
            _spread([statistics.mean(space["shares"]) for space in eigenspaces]),
            f"{min(min(space['shares']) for space in eigenspaces):.2f}",
            f"{eigenspaces[0]['share_by_chance']:.5f}",
            _spread([space["overlap"] for space in eigenspaces]),
            f"{eigenspaces[0]['overlap_by_chance']:.5f}",
        ]
        lines.append(f"| {name} | {rounds} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def draw(records: Sequence[Record], folder: Path) -> None:
    """Plot one figure per partition, for the first layer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(record["partition"] for record in records):
        by_round = {rounds: group for (partition, rounds), group in cells(records).items() if partition == name}
        figure = alignment({f"round {rounds}": over_seeds(group, "fc1.weight") for rounds, group in by_round.items()})
        save(figure, folder / f"alignment-{name.split()[0].lower()}")


def main() -> None:
    """Measure, print, save and plot."""
    parser = argparse.ArgumentParser(description="Agreement of client gradients, in full and truncated to low rank.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/alignment"))
    parser.add_argument("--pictures", type=Path, help="a folder for the figures (default: no figures)")
    arguments = parser.parse_args()
    data = fl.data.load("mnist5k")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for seed in range(arguments.seeds):
        for name, partition in partitions(data, seed).items():
            records += measure(data, name, partition, seed)
        arguments.out.with_suffix(".json").write_text(json.dumps(records, indent=2))
    tables = "".join(table(records, weight) for weight in SHOWN) + spaces(records)
    arguments.out.with_suffix(".md").write_text(tables)
    if arguments.pictures:
        draw(records, arguments.pictures)
    print(tables)


if __name__ == "__main__":
    main()
