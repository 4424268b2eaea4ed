"""Do the gradients of clients agree better when cut to low rank? Measured, and held against chance.

    python benchmarks/alignment.py [--seeds 5] [--out benchmarks/results/alignment] [--pictures DIR]

MNIST-5k, the perceptron 784-200-10, 20 clients, IID and Dirichlet(0.3); the shared model at the start and after 5 and
30 rounds of FedAvg. A client's gradient is that of its mean loss over all its examples. Beside the cosines: the share
of each gradient in the span of the ten top eigenvectors of the server's Hessian, against 10/n by chance, and how far
the span of all clients' gradients holds these eigenvectors, against 20/n. Means over seeds, each with its own split,
first model and training, ± standard deviations over seeds. What ``fedloru align`` does for one model, on many.
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
    """Return the partitions by their names."""
    return {
        "IID": fl.data.iid(data, CLIENTS, seed),
        "Dirichlet 0.3": fl.data.dirichlet(data, CLIENTS, 0.3, seed, min_examples=10),
    }


def models(data: Dataset, partition: Partition, seed: int) -> Iterator[tuple[int, Objective]]:
    """Yield the loss over all clients' examples at the shared model, after each number of ``ROUNDS``."""
    net = fl.make(fl.models.build("mlp", channels=1, size=28, classes=10, seed=seed))
    recipe = fl.Recipe(lr=0.1, batch_size=10, clip=1.0)
    run = fl.run(net, fl.fedavg(), data, partition, rounds=max(ROUNDS), cohort=10, recipe=recipe, seed=seed)
    for wanted in ROUNDS:
        for _ in islice(run, wanted - run.state.round):
            pass
        yield wanted, objective(net, run.tensors, data.train, batch_size=1000)


def measure(data: Dataset, name: str, partition: Partition, seed: int) -> Iterator[Record]:
    """Yield one record a number of rounds."""
    clients = [Subject(f"client {client}", rows, client) for client, rows in enumerate(partition.train)]
    for done, whole in models(data, partition, seed):
        began = time.perf_counter()
        found = list(gradients(whole, data.train, clients))
        agreed = {key: [row._asdict() for row in rows] for key, rows in agreement(found, RANKS).items()}
        space = eigenspace(whole, found, TOP, seed, lambda: None)
        yield {"partition": name, "round": done, "seed": seed, "agreement": agreed, "eigenspace": space}
        print(f"{name}, round {done}, seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr)


def cells(records: Sequence[Record]) -> dict[tuple[str, int], list[Record]]:
    """Return the records of all seeds by partition and round."""
    found: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        found.setdefault((record["partition"], record["round"]), []).append(record)
    return found


def over_seeds(mine: Sequence[Record], weight: str) -> list[Agreement]:
    """Return the mean over seeds of each rank's row, its errors the standard deviations of cosine and gain."""
    return [
        _mean([Agreement(**row) for row in rows]) for rows in zip(*(r["agreement"][weight] for r in mine), strict=True)
    ]


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
    """Return the agreement at one weight as Markdown: the gain at each rank, a line a partition and round."""
    heads = ["whole", *(f"gain at r = {rank}" for rank in RANKS), "by chance", *(f"energy at {r}" for r in RANKS)]
    lines = [f"\n**{weight}**\n", f"| clients | round | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for (name, done), mine in cells(records).items():
        *cut, whole = over_seeds(mine, weight)
        columns = [
            f"{whole.cosine:.3f} ± {whole.error:.3f}",
            *(f"{row.gain:+.3f} ± {row.gain_error:.3f}" for row in cut),
        ]
        columns += [f"{whole.chance:.4f}", *(f"{row.energy:.2f}" for row in cut)]
        lines.append(f"| {name} | {done} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def spaces(records: Sequence[Record]) -> str:
    """Return as Markdown how gradients and the Hessian's top eigenvectors share their spaces."""
    heads = ("clients", "round", "share, mean", "least of all", "by chance", "overlap", "by chance")
    lines = [f"\n| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (name, done), mine in cells(records).items():
        found = [record["eigenspace"] for record in mine]
        columns = [
            _spread([statistics.mean(space["shares"]) for space in found]),
            f"{min(min(space['shares']) for space in found):.2f}",
            f"{found[0]['share_by_chance']:.5f}",
            _spread([space["overlap"] for space in found]),
            f"{found[0]['overlap_by_chance']:.5f}",
        ]
        lines.append(f"| {name} | {done} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def draw(records: Sequence[Record], folder: Path) -> None:
    """Draw one picture a partition, of the first layer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(record["partition"] for record in records):
        mine = {done: found for (of, done), found in cells(records).items() if of == name}
        figure = alignment({f"round {done}": over_seeds(found, "fc1.weight") for done, found in mine.items()})
        save(figure, folder / f"alignment-{name.split()[0].lower()}")


def main() -> None:
    """Measure, print, save and draw."""
    parser = argparse.ArgumentParser(description="Agreement of clients' gradients, whole and cut to low rank.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/alignment"))
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures (none without it)")
    arguments = parser.parse_args()
    data = fl.data.load("mnist5k")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for seed in range(arguments.seeds):
        for name, partition in partitions(data, seed).items():
            records += measure(data, name, partition, seed)
        arguments.out.with_suffix(".json").write_text(json.dumps(records, indent=2))
    told = "".join(table(records, weight) for weight in SHOWN) + spaces(records)
    arguments.out.with_suffix(".md").write_text(told)
    if arguments.pictures:
        draw(records, arguments.pictures)
    print(told)


if __name__ == "__main__":
    main()
