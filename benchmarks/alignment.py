"""Do the gradients of clients agree better when cut to low rank? Measured, and held against chance.

    python benchmarks/alignment.py [--quick] [--out benchmarks/results/alignment] [--pictures DIR]

MNIST-5k, the perceptron 784-200-10, 20 clients, IID and Dirichlet(0.3); the shared model at the start and after 5 and
30 rounds of FedAvg. A client's gradient is that of its mean loss over all its examples. Beside the cosines: the share
of each gradient in the span of the ten top eigenvectors of the server's Hessian, against 10/n by chance, and how far
the span of all clients' gradients holds these eigenvectors, against 20/n.
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

from torch import Tensor

import fedloru as fl
from fedloru.analysis.alignment import Agreement, agreements, flat, grams, shares
from fedloru.analysis.curvature import curvature
from fedloru.analysis.lanczos import largest
from fedloru.analysis.look import save
from fedloru.analysis.objective import Objective, gradient, objective, on
from fedloru.analysis.pictures import alignment
from fedloru.data import Dataset, Examples, Partition
from fedloru.lowrank import spectra
from fedloru.tree import Params

CLIENTS, TOP = 20, 10
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
ROUNDS = (0, 5, 30)


def partitions(data: Dataset) -> dict[str, Partition]:
    """Return the partitions by their names."""
    return {
        "IID": fl.data.iid(data, CLIENTS, 0),
        "Dirichlet 0.3": fl.data.dirichlet(data, CLIENTS, 0.3, 0, min_examples=10),
    }


def models(data: Dataset, partition: Partition, rounds: Sequence[int]) -> Iterator[tuple[int, Objective]]:
    """Yield the loss over all clients' examples at the shared model, after each number of ``rounds``."""
    net = fl.make(fl.models.build("mlp", channels=1, size=28, classes=10, seed=0))
    recipe = fl.Recipe(lr=0.1, batch_size=10, clip=1.0)
    run = fl.run(net, fl.fedavg(), data, partition, rounds=max(rounds) or 1, cohort=10, recipe=recipe)
    for wanted in rounds:
        for _ in islice(run, wanted - run.state.round):
            pass
        yield wanted, objective(net, run.tensors, data.train, batch_size=1000)


def rows(examples: Examples, chosen: Tensor) -> Examples:
    """Return some of the examples."""
    return {key: value[chosen] for key, value in examples.items()}


def measure(data: Dataset, name: str, partition: Partition, rounds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield one record a number of rounds."""
    for done, whole in models(data, partition, rounds):
        began = time.perf_counter()
        gradients = [gradient(on(whole, rows(data.train, held))) for held in partition.train]
        found = grams(gradients, RANKS)
        by_weight = {key: agreements([gram]) for key, gram in found.items()} | {"all": agreements(found.values())}
        table = {key: [row._asdict() for row in agreed] for key, agreed in by_weight.items()}
        yield {"partition": name, "round": done, "agreement": table, **subspaces(whole, gradients)}
        print(f"{name}, round {done}: {time.perf_counter() - began:.0f} s", file=sys.stderr)


def subspaces(whole: Objective, gradients: Sequence[Params]) -> dict[str, float]:
    """Return how far clients' gradients lie in the span of the Hessian's top eigenvectors, and the other way round."""
    top = largest(curvature(whole, "hessian"), TOP, 0).vectors.double()
    vectors = flat(gradients, whole.params)
    found = shares(vectors, top)
    return {
        "share": statistics.mean(found),
        "share_least": min(found),
        "share_by_chance": spectra.overlap_by_chance(len(top), 1, TOP).mean,
        "overlap": spectra.overlap(spectra.basis(vectors.T), top),
        "overlap_by_chance": spectra.overlap_by_chance(len(top), CLIENTS, TOP).mean,
    }


def table(records: Sequence[dict[str, Any]], weight: str) -> str:
    """Return the agreement at one weight as Markdown: a line a partition and round."""
    ranks = [row["rank"] for row in records[0]["agreement"][weight]]
    heads = ["whole" if rank is None else f"r = {rank}" for rank in ranks]
    lines = [
        f"\n**{weight}**: mean cosine ± jackknife error\n",
        f"| partition | round | {' | '.join(heads)} | chance |",
    ]
    lines.append("|---" * (len(ranks) + 3) + "|")
    for r in records:
        agreed = r["agreement"][weight]
        cells = [f"{row['cosine']:.3f} ± {row['error']:.3f}" for row in agreed]
        lines.append(f"| {r['partition']} | {r['round']} | {' | '.join(cells)} | {agreed[-1]['chance']:.4f} |")
        gains = [f"{row['gain']:+.3f} ± {row['gain_error']:.3f}" for row in agreed[:-1]]
        lines.append(f"| | gain | {' | '.join(gains)} | | |")
        for kept in ("energy", "shared"):
            lines.append(f"| | {kept} | {' | '.join(f'{row[kept]:.2f}' for row in agreed)} | |")
    return "\n".join(lines) + "\n"


def spaces(records: Sequence[dict[str, Any]]) -> str:
    """Return as Markdown how gradients and the Hessian's top eigenvectors share their spaces."""
    lines = ["\n| partition | round | share, mean | least | by chance | overlap | by chance |", "|---" * 7 + "|"]
    for r in records:
        cells = [r[key] for key in ("share", "share_least", "share_by_chance", "overlap", "overlap_by_chance")]
        lines.append(f"| {r['partition']} | {r['round']} | {' | '.join(f'{cell:.2g}' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def draw(records: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw one picture a partition, of the first layer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(r["partition"] for r in records):
        chosen = {f"round {r['round']}": r["agreement"]["fc1.weight"] for r in records if r["partition"] == name}
        figure = alignment({label: [Agreement(**row) for row in agreed] for label, agreed in chosen.items()})
        save(figure, folder / f"alignment-{name.split()[0].lower()}")


def main() -> None:
    """Measure, print, save and draw."""
    parser = argparse.ArgumentParser(description="Agreement of clients' gradients, whole and cut to low rank.")
    parser.add_argument("--quick", action="store_true", help="the start and round 5 alone")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/alignment"))
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures (none without it)")
    arguments = parser.parse_args()
    data = fl.data.load("mnist5k")
    rounds = ROUNDS[:2] if arguments.quick else ROUNDS
    records = [r for name, partition in partitions(data).items() for r in measure(data, name, partition, rounds)]
    told = "".join(table(records, weight) for weight in ("fc1.weight", "fc2.weight", "all")) + spaces(records)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(records, indent=2))
    arguments.out.with_suffix(".md").write_text(told)
    if arguments.pictures:
        draw(records, arguments.pictures)
    print(told)


if __name__ == "__main__":
    main()
