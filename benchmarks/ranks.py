"""How the rank of the learned update grows along a run: FedAvg, FedLoRU and FedLoRA side by side.

    python benchmarks/ranks.py [--quick] [--pictures DIR]

Setup: MNIST-5k, a 784-200-10 perceptron with r = 4 on both layers, 20 clients with Dirichlet(0.3) label skew, 5 per
round, one local epoch. Prints the stable and effective rank of W_T − W₀ of the first layer, and for FedLoRU the mean
overlap of consecutive increments beyond chance.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fedloru as fl
from fedloru.analysis.figures import save
from fedloru.analysis.pictures import ranks
from fedloru.analysis.trajectory import curves, watch
from fedloru.method import Method

WEIGHT = "fc1.weight"
CONTENDERS: dict[str, Callable[[], Method]] = {
    "FedAvg": fl.fedavg,
    "FedLoRU τ=3": lambda: fl.fedloru(recipe="paper", tau=3),
    "FedLoRU τ=10": lambda: fl.fedloru(recipe="paper", tau=10),
    "FedLoRA": fl.fedlora,
}


def follow(method: Method, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of a run, with the ranks of W_t − W₀ of every matrix."""
    digits = fl.data.load("mnist5k")
    clients = fl.data.dirichlet(digits, clients=20, alpha=0.3, min_examples=10)
    model = fl.models.build("mlp", channels=1, size=28, classes=10, seed=0)
    net = fl.attach(model, rank=4, alpha=8) if method.traits.low_rank else fl.make(model)
    recipe = fl.Recipe(lr=0.1, momentum=0.9, batch_size=20, clip=1.0)
    return list(
        watch(fl.run(net, method, digits, clients, rounds=rounds, cohort=5, recipe=recipe, diagnostics_every=1))
    )


def main() -> None:
    """Train, print and plot."""
    parser = argparse.ArgumentParser(description="Ranks of the learned update along a run.")
    parser.add_argument("--quick", action="store_true", help="12 rounds instead of 60")
    parser.add_argument("--pictures", type=Path, help="a folder for the figure (default: no figure)")
    arguments = parser.parse_args()
    by_method = {label: follow(method(), 12 if arguments.quick else 60) for label, method in CONTENDERS.items()}
    print(
        "| method | accuracy | stable rank | effective rank | overlap of columns | of rows |\n|---|---|---|---|---|---|"
    )
    for label, rows in by_method.items():
        last = [f"{curves(rows, f'{kind}_rank_total')[WEIGHT][-1][1]:.1f}" for kind in ("stable", "effective")]
        overlaps = [curves(rows, f"overlap_{side}").get(WEIGHT, []) for side in ("columns", "rows")]
        means = [f"{statistics.mean(value for _, value in curve):.2f}" if curve else "–" for curve in overlaps]
        print(f"| {label} | {rows[-1]['test_accuracy']:.3f} | {' | '.join(last + means)} |")
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        lines = {label: curves(rows, "effective_rank_total")[WEIGHT] for label, rows in by_method.items()}
        save(ranks(lines, "effective rank of W$_t$ − W$_0$, fc1"), arguments.pictures / "ranks")


if __name__ == "__main__":
    main()
