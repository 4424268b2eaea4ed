"""How fast the gradient of the global loss vanishes if the usual assumptions nearly hold: FedAvg against FedLoRU.

    python benchmarks/convergence.py [--quick] [--seeds 5] [--out benchmarks/results/convergence] [--pictures DIR]

Two smooth problems, whose gradient noise is bounded along a bounded run, with 20 clients, 10 per round, and 5 local
steps each. *Regression*: y = W_k x + noise, where W_k is W* of rank 2 plus a small perturbation for each client; the
optimum over all examples is known in closed form. *Network*: scikit-learn's digits and a tanh perceptron, with label
skew.

The theory ties the step size to the horizon, so there is a separate run with lr ∝ 1/√T for every number of rounds T,
and the mean of ‖∇f(W_t)‖² over t < T is plotted against T on log-log axes. f is the loss over the examples of all
clients, and ∇ is with respect to biases and weights, with the factors merged into the weights. The theory of SGD gives
a slope of −1/2. The scale of the factors is √3, so that s²·E‖a‖² = 1 for the rows a of a fresh A: with the same
learning rate, steps in the subspace of a FedLoRU cycle are then as long as FedAvg's in the full space. FedLoRA, which
never merges, is included as an example that fails to converge.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fedloru as fl
from fedloru import lowrank, tree
from fedloru.analysis.figures import save
from fedloru.analysis.objective import Objective, gradient, objective
from fedloru.analysis.pictures import Rate, rates
from fedloru.data import Dataset, Partition
from fedloru.method import Method
from fedloru.net import Batch, Net

CLIENTS, COHORT, STEPS, BATCH = 20, 10, 5, 10
SCALE = math.sqrt(3)

CONTENDERS: dict[str, Callable[[], Method]] = {
    "FedAvg": fl.fedavg,
    "FedLoRU τ=1": lambda: fl.fedloru(recipe="paper", tau=1),
    "FedLoRU τ=5": lambda: fl.fedloru(recipe="paper", tau=5),
    "FedLoRA": fl.fedlora,
}


class Problem(NamedTuple):
    """A loss over clients; ``lr`` is the learning rate for the shortest horizon, ``optimum`` is W* if it is known."""

    name: str
    data: Dataset
    partition: Partition
    model: nn.Module
    losses: Callable[[Any, Batch], Tensor]
    rank: int
    lr: float
    optimum: Tensor | None = None


class Outcome(NamedTuple):
    """The results of one run: the mean of ‖∇f(W_t)‖² over t < T, ‖∇f(W_T)‖², and the distance of W_T to the optimum."""

    mean: float
    last: float
    distance: float | None


def regression(seed: int, o: int = 10, i: int = 20, examples: int = 60) -> Problem:
    """Return a linear regression with a matrix of rank 2, and its optimum over the examples of all clients."""
    g = fl.rng.gen(seed, "regression")
    truth = torch.randn(o, 2, generator=g, dtype=torch.float64) @ torch.randn(2, i, generator=g, dtype=torch.float64)
    weights = truth / math.sqrt(o * i) + 0.02 * torch.randn(CLIENTS, o, i, generator=g, dtype=torch.float64)
    x = torch.randn(CLIENTS, examples, i, generator=g, dtype=torch.float64)
    y = x @ weights.mT + 0.2 * torch.randn(CLIENTS, examples, o, generator=g, dtype=torch.float64)
    flat = {"x": x.flatten(0, 1), "target": y.flatten(0, 1), "y": torch.zeros(CLIENTS * examples, dtype=torch.int64)}
    optimum = torch.linalg.lstsq(flat["x"], flat["target"]).solution.T
    model = nn.Linear(i, o, bias=False, dtype=torch.float64)
    nn.init.normal_(model.weight, std=1 / math.sqrt(i), generator=g)
    data = Dataset("regression", flat, flat, ())
    return Problem("regression", data, blocks(CLIENTS, examples), model, squares, 2, 0.1, optimum)


def network(seed: int, hidden: int = 24) -> Problem:
    """Return the digits with Dirichlet(1) label skew, and a 64-24-10 perceptron with tanh."""
    data = fl.data.load("digits")
    train = {"x": data.train["x"].double().flatten(1), "y": data.train["y"]}
    test = {"x": data.test["x"].double().flatten(1), "y": data.test["y"]}
    data = data._replace(train=train, test=test)
    g = fl.rng.gen(seed, "network")
    model = nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10)).double()
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features), generator=g)
        nn.init.zeros_(layer.bias)
    partition = fl.data.dirichlet(data, CLIENTS, 1.0, seed, min_examples=BATCH)
    return Problem("network", data, partition, model, fl.net.cross_entropy, 2, 0.35)


PROBLEMS: dict[str, Callable[[int], Problem]] = {"regression": regression, "network": network}


def blocks(clients: int, examples: int) -> Partition:
    """Return the partition in which each client holds the next ``examples`` rows."""
    rows = torch.arange(clients * examples).split(examples)
    return Partition("blocks", 0, rows, (), {"clients": clients})


def squares(outputs: Tensor, batch: Batch) -> Tensor:
    """Return half the squared error of each example, (b,)."""
    return (outputs - batch["target"]).square().sum(1) / 2


def follow(problem: Problem, method: Method, rounds: int, lr: float, seed: int) -> Outcome:
    """Train for ``rounds`` rounds, and measure the gradient of the global loss before each."""
    net = attach(problem, method)
    run = fl.run(
        net,
        method,
        problem.data,
        problem.partition,
        rounds=rounds,
        cohort=COHORT,
        recipe=fl.Recipe(lr=lr, steps=STEPS, batch_size=BATCH),
        seed=seed,
        eval_every=rounds,
        diagnostics=False,
        round_trip=False,
    )
    held = torch.cat(problem.partition.train)
    whole = objective(
        net, run.tensors, {key: value[held] for key, value in problem.data.train.items()}, batch_size=5000
    )
    squared = [squared_gradient(whole, net, run.tensors)]
    squared += [squared_gradient(whole, net, run.tensors) for _ in run]
    return Outcome(statistics.mean(squared[:-1]), squared[-1], distance(run.model(), problem.optimum))


def attach(problem: Problem, method: Method) -> Net:
    """Return the model in the form that ``method`` trains."""
    if not method.traits.low_rank:
        return fl.make(problem.model, losses=problem.losses)
    return fl.attach(problem.model, rank=problem.rank, alpha=SCALE * problem.rank, losses=problem.losses)


def squared_gradient(whole: Objective, net: Net, tensors: tree.Params) -> float:
    """Return ‖∇f‖² with respect to biases and weights, with the factors merged into the weights."""
    merged = lowrank.merge(net.sites, tensors, tensors)
    return float(tree.norm(gradient(whole._replace(params=tree.select(merged, whole.params))))) ** 2


def distance(model: nn.Module, optimum: Tensor | None) -> float | None:
    """Return ‖W − W*‖_F / ‖W*‖_F, or None if W* is not known."""
    if optimum is None:
        return None
    return float((model.weight.detach() - optimum).norm() / optimum.norm())


def slope(horizons: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Fit values = factor · T^slope by least squares of logarithms, and return the slope and the factor."""
    line = statistics.linear_regression([math.log(t) for t in horizons], [math.log(v) for v in values])
    return line.slope, math.exp(line.intercept)


def measure(problem: str, label: str, horizons: Sequence[int], seeds: int) -> dict[str, Any]:
    """Return the results of one method on one problem, from one run per seed and horizon."""
    start = time.perf_counter()
    outcomes = []
    for seed in range(seeds):
        instance = PROBLEMS[problem](seed)
        schedule = [(t, instance.lr * math.sqrt(horizons[0] / t)) for t in horizons]
        outcomes.append([follow(instance, CONTENDERS[label](), t, lr, seed) for t, lr in schedule])
    means = [[outcome.mean for outcome in row] for row in outcomes]
    slopes = [slope(horizons, row)[0] for row in means]
    fitted = slope(horizons, [statistics.mean(column) for column in zip(*means, strict=True)])
    print(f"{problem}, {label}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return {
        "problem": problem,
        "method": label,
        "horizons": list(horizons),
        "mean": means,
        "last": [[outcome.last for outcome in row] for row in outcomes],
        "distance": [row[-1].distance for row in outcomes],
        "slopes": slopes,
        "slope": fitted[0],
        "factor": fitted[1],
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of means ± deviations over seeds; slopes are over all and over the last two horizons."""
    first, *_, second_last, last = records[0]["horizons"]
    late = (second_last, last)
    head = f"| problem | method | slope | T ≥ {late[0]} | mean ‖∇f‖², T = {first} | T = {last} | ‖W − W*‖/‖W*‖ |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for r in records:
        cells = [_cell(values, 2) for values in (r["slopes"], [slope(late, row[-2:])[0] for row in r["mean"]])]
        cells += [_cell([row[index] for row in r["mean"]], 4) for index in (0, -1)]
        distance_cell = "–" if r["distance"][0] is None else _cell(r["distance"], 3)
        lines.append(f"| {r['problem']} | {r['method']} | {' | '.join(cells)} | {distance_cell} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}".replace("-", "−")


def draw(records: Sequence[dict[str, Any]], folder: Path) -> None:
    """Plot one figure per problem."""
    folder.mkdir(parents=True, exist_ok=True)
    for problem in dict.fromkeys(r["problem"] for r in records):
        chosen = [r for r in records if r["problem"] == problem]
        lines = [Rate(r["method"], r["horizons"], r["mean"], r["slope"], r["factor"]) for r in chosen]
        save(rates(lines, "rounds T, each with its own step size ∝ 1/√T"), folder / f"convergence-{problem}")


def main() -> None:
    """Measure, print, save and plot."""
    parser = argparse.ArgumentParser(description="Rates of convergence, fitted over horizons.")
    parser.add_argument("--quick", action="store_true", help="two seeds, short horizons")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/convergence"))
    parser.add_argument("--pictures", type=Path, help="a folder for the figures (default: no figures)")
    arguments = parser.parse_args()
    horizons = (40, 80, 160) if arguments.quick else (40, 80, 160, 320, 640)
    seeds = 2 if arguments.quick else arguments.seeds
    records = [measure(problem, label, horizons, seeds) for problem in PROBLEMS for label in CONTENDERS]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(records, indent=2))
    arguments.out.with_suffix(".md").write_text(table(records))
    if arguments.pictures:
        draw(records, arguments.pictures)
    print(table(records))


if __name__ == "__main__":
    main()
