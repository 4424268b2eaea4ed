"""Draws the figures of docs/how-fedloru-works.md: two diagrams, and three measurements on MNIST-5k.

    python benchmarks/how_it_works.py [--rounds N] [--pictures DIR]

Setup of the measurements: a 784-200-10 perceptron with r = 4 on its first layer, 20 clients with Dirichlet(0.3) label
skew, 5 per round, 40 rounds, default settings of clients, one seed. Takes less than a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from claim.diagnose import Observer, ranks
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

import fedloru as fl
from fedloru.analysis.figures import legend, logarithmic, paper_style
from fedloru.method import Method
from fedloru.report import style

FROZEN, TRAINED, MERGED = "#c9d1d9", style.BLUE, style.GREEN
CONTENDERS: dict[str, tuple[str, Callable[[], Method]]] = {
    "FedAvg": (style.MUTED, fl.fedavg),
    "FedLoRA": (style.ORANGE, fl.fedlora),
    "FedLoRU, published recipe, τ = 10": (style.VERMILLION, lambda: fl.fedloru(recipe="paper", tau=10)),
    "FedLoRU, τ = 4": (style.BLUE, lambda: fl.fedloru(tau=4)),
}


@dataclass
class Followed:
    """What was measured along a run: by round, from round 0, except for the bytes and the merges."""

    gains: list[float] = field(default_factory=list)
    ranks: list[float] = field(default_factory=lambda: [0.0])
    megabytes: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    merges: list[int] = field(default_factory=list)


def follow(method: Method, rounds: int) -> Followed:
    """Return the gain, the rank of the update of the first layer, the bytes and the accuracy of every round."""
    digits = fl.data.load("mnist5k")
    clients = fl.data.dirichlet(digits, clients=20, alpha=0.3)
    model = fl.models.build("mlp", channels=1, size=28, classes=10, seed=0)
    net = fl.attach(model, rank=4) if method.traits.low_rank else fl.make(model)
    run = fl.run(net, method, digits, clients, rounds=rounds, cohort=5, diagnostics=False)
    observer, found = Observer(run), Followed()
    first = run.model().state_dict()["fc1.weight"].clone()
    for row in run:
        observer.after_round()
        found.ranks.append(ranks(run.model().state_dict()["fc1.weight"] - first)["numerical"])
        found.megabytes.append(row["up_bytes_total"] / 1e6)
        found.accuracies.append(row["test_accuracy"])
        found.merges += [row["round"]] * row["merged"]
    found.gains = observer.gains
    return found


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str, text: str = "") -> None:
    """Draw a matrix."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=style.INK, linewidth=0.6))
    ink = "white" if colour in (TRAINED, MERGED) else style.INK
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink)


def factors(axes: Axes, x: float, y: float, a: str = TRAINED, b: str = TRAINED) -> None:
    """Draw B (tall) and A (wide), whose product has the size of W."""
    box(axes, x, y, 0.22, 1.0, b, "B")
    box(axes, x + 0.3, y + 0.78, 1.0, 0.22, a, "A")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "", dx: float = 0.0) -> None:
    """Draw an arrow, with a text next to its middle."""
    patch = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=style.MUTED, linewidth=1.0)
    axes.add_patch(patch)
    axes.text((start[0] + end[0]) / 2 + dx, (start[1] + end[1]) / 2, text, color=style.MUTED, va="center")


def canvas(width: float, height: float, x: float, y: float) -> tuple[Figure, Axes]:
    """Return a figure of the given inches, and axes without ticks for x by y units."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, x), ylim=(0, y), aspect="equal")
    axes.axis("off")
    return figure, axes


@paper_style()
def one_round() -> Figure:
    """Draw a round: the server sends factors, clients train them, the server averages and merges them."""
    figure, axes = canvas(6.6, 3.0, 13.2, 6.0)
    axes.text(0.1, 5.6, "1. The server sends factors", weight="bold")
    box(axes, 0.2, 2.3, 1.0, 1.0, FROZEN, "W")
    axes.text(1.4, 2.8, "+", va="center", ha="center", fontsize=11)
    factors(axes, 1.6, 2.3, MERGED, MERGED)
    axes.text(4.6, 5.6, "2. Clients train them", weight="bold")
    for client, y in enumerate((4.2, 2.3, 0.4), start=1):
        arrow(axes, (3.05, 2.8), (4.5, y + 0.5))
        box(axes, 4.7, y, 1.0, 1.0, FROZEN, "W")
        axes.text(5.9, y + 0.5, "+", va="center", ha="center", fontsize=11)
        factors(axes, 6.1, y)
        axes.text(6.4, y + 0.35, f"client {client}", color=style.MUTED)
        arrow(axes, (7.55, y + 0.5), (9.0, 2.8))
    axes.text(8.9, 5.6, "3. The server averages them,", weight="bold")
    axes.text(8.9, 5.2, "    and merges every τ rounds", weight="bold")
    factors(axes, 9.2, 2.3, MERGED, MERGED)
    arrow(axes, (10.65, 2.8), (11.55, 2.8))
    axes.text(11.1, 3.0, "+ W", ha="center", color=style.MUTED)
    box(axes, 11.7, 2.3, 1.0, 1.0, MERGED, "W")
    return figure


@paper_style()
def two_recipes() -> Figure:
    """Draw which factor is fixed, trained and new after each merge, with both recipes."""
    figure, axes = canvas(6.6, 2.75, 10.6, 5.1)
    rows = (("Published recipe: both factors are reset", 3.0), ("Alternating recipe: the merged factor is kept", 0.2))
    for title, y in rows:
        axes.text(0.1, y + 1.75, title, weight="bold")
        for version in range(4):
            x = 0.3 + 2.9 * version
            axes.text(x, y + 1.2, f"version {version}", color=style.MUTED)
            if y > 1:
                factors(axes, x, y, TRAINED, TRAINED)
            else:
                factors(axes, x, y, *((FROZEN, TRAINED) if version % 2 == 0 else (TRAINED, FROZEN)))
            if version < 3:
                arrow(axes, (x + 1.45, y + 0.4), (x + 2.7, y + 0.4))
                axes.text(x + 2.05, y + 0.5, "merge", ha="center", color=style.MUTED)
                axes.text(
                    x + 2.05,
                    y + 0.05,
                    "A random, B = 0" if y > 1 else ("fix B, train A" if version % 2 == 0 else "fix A, train B"),
                    ha="center",
                    color=style.INK,
                    fontsize=6,
                )
    return figure


@paper_style()
def gains(runs: dict[str, Followed]) -> Figure:
    """Plot the gain of a step by round."""
    figure, axes = _plot("round", "size of a step, relative to a dense step")
    for label, run in runs.items():
        if label != "FedAvg":
            axes.plot(range(len(run.gains)), run.gains, color=CONTENDERS[label][0], label=label)
    axes.set_ylim(0)
    legend(axes)
    return figure


@paper_style()
def growing_ranks(runs: dict[str, Followed]) -> Figure:
    """Plot the rank of the learned update by round."""
    figure, axes = _plot("round", "rank of W$_t$ − W$_0$, first layer")
    for label, run in runs.items():
        axes.step(range(len(run.ranks)), run.ranks, where="post", color=CONTENDERS[label][0], label=label)
    axes.set_yscale("symlog", linthresh=4, base=2)
    axes.set_yticks([4, 8, 16, 32, 64, 128, 200], labels=["4", "8", "16", "32", "64", "128", "200"])
    axes.set_ylim(0, 260)
    legend(axes)
    return figure


@paper_style()
def sent_bytes(runs: dict[str, Followed]) -> Figure:
    """Plot the accuracy against the bytes that clients have sent."""
    figure, axes = _plot("MB sent by clients", "test accuracy")
    for label, run in runs.items():
        axes.plot(run.megabytes, run.accuracies, color=CONTENDERS[label][0], label=label)
    logarithmic(axes, "x")
    axes.xaxis.set_major_formatter("{x:g}")
    legend(axes)
    return figure


def _plot(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def main() -> None:
    """Draw, train and plot."""
    parser = argparse.ArgumentParser(description="The figures of docs/how-fedloru-works.md.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"), help="the folder of the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = {label: follow(make(), arguments.rounds) for label, (_, make) in CONTENDERS.items()}
    figures = {
        "round": one_round(),
        "recipes": two_recipes(),
        "gain": gains(runs),
        "rank": growing_ranks(runs),
        "bytes": sent_bytes(runs),
    }
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(arguments.pictures / f"how-{name}.png", dpi=200, metadata={"Software": "fedloru"})
    for label, run in runs.items():
        print(f"{label}: accuracy {run.accuracies[-1]:.3f}, rank {run.ranks[-1]:.0f}, {run.megabytes[-1]:.1f} MB")


if __name__ == "__main__":
    main()
