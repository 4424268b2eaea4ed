"""Compare methods on pretrained language models and real texts: accuracy or perplexity, and megabytes sent.

    python benchmarks/llm.py --data-dir DIR --part a|b|c [--seeds 3] [--tune] [--out benchmarks/results/llm]

(a) MiniLM (22.7 M parameters) on SST-2: 20 clients with skewed labels, 4 per round. (b) stories260k on the speakers of
tinyshakespeare, with personal models. (c) SmolLM2-135M on the eight categories of Dolly: loss, seconds per round and
peak memory. ``--tune`` tries the learning rates of parts (a) and (b) on a separate seed, with half of the rounds, on
held-out training texts; the best one is set in llm_tasks.py. Every finished run is a line of OUT-PART.jsonl, and is not
repeated.

MiniLM and SmolLM2 are available from the package index (see pretrained.py). Requires the extra ``hf``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pretrained
from llm_tasks import TUNING, Contender, Task, held_back, minilm, stories

import fedloru as fl
from fedloru.client import train
from fedloru.evaluate import evaluate, shared_model
from fedloru.hf import Instruct
from fedloru.method import Down
from fedloru.recipe import Recipe
from fedloru.run.loop import Run
from fedloru.run.plan import Plan
from fedloru.run.summary import peak_rss
from fedloru.session import Job, Session

LAST = 3
"""Scores are averaged over this number of last rounds."""


def measure(task: Task, contender: Contender, seed: int) -> dict[str, Any]:
    """Train one contender, and return its results."""
    method, partition = contender.method(), task.partition(task.data, seed)
    net = (
        fl.hf.attach(task.model, rank=task.rank, alpha=task.alpha, targets=task.targets)
        if method.traits.low_rank
        else fl.hf.make(task.model)
    )
    plan = Plan(
        net,
        method,
        task.data,
        partition,
        rounds=task.rounds,
        cohort=task.cohort,
        recipe=task.recipe._replace(lr=contender.lr),
        seed=seed,
        eval_every=task.rounds,  # personal models are scored once, at the end
        diagnostics=False,
    )
    run = Run(plan)
    scores = [evaluate(net, run.tensors, task.data.test) for row in run if row["round"] > task.rounds - LAST]
    summary, personal = run.summary(), run.rows[-1]["personal"] or {}
    results = {
        "accuracy": statistics.mean(score.accuracy for score in scores),
        "loss": statistics.mean(score.loss for score in scores),
        "mb": (summary["up_bytes_total"] + summary["down_bytes_total"]) / 1e6,
        "seconds": summary["seconds"],
    }
    results |= {f"own_{name}": spread["loss"] for name, spread in personal.items()}
    if personal and not method.traits.low_rank:
        results["own_tuned"] = finetuned(run)
    return results


def finetuned(run: Run) -> float:
    """Return the mean loss on clients' test texts after each finetunes the shared model for two epochs at lr / 10."""
    plan, state = run.plan, run.state
    shared, down = shared_model(plan.net, plan.method, state), Down(state.shared, {}, state.seed, state.round + 1)
    recipe = plan.recipe._replace(epochs=2, lr=plan.recipe.lr / 10)
    session = Session(plan.net, plan.method, state.base, down, plan.dataset.train, recipe, state.seed, state.round + 1)
    losses = []
    for client, rows in enumerate(plan.partition.test):
        tuned = shared | train(session, Job(client, plan.partition.train[client])).up.shared
        losses.append(evaluate(plan.net, tuned, {key: value[rows] for key, value in plan.dataset.train.items()}).loss)
    return statistics.mean(losses)


def dolly(data: Path, cache: Path, rounds: int = 6) -> list[dict[str, Any]]:
    """Return the rounds of part (c): SmolLM2-135M on the instructions of Dolly, with one client per category."""
    folder = pretrained.smollm2(cache)
    path = str(data / "dolly15k_all.parquet")
    texts = fl.hf.texts(
        fl.hf.tokenizer(folder),
        path,
        Instruct("instruction", "context", "response", "chat"),
        columns=["category"],
        max_length=128,
        test_fraction=0.005,
    )
    net = fl.hf.attach(fl.hf.load(folder), rank=8, alpha=16)
    clients = fl.data.natural(texts, "category")
    recipe = Recipe("adamw", lr=1e-3, steps=4, batch_size=2)
    settings = {"rounds": rounds, "cohort": 4, "recipe": recipe, "eval_every": 2, "diagnostics": False}
    run = fl.run(net, fl.fedloru(recipe="paper", tau=3), texts, clients, **settings)
    before = evaluate(net, run.tensors, texts.test).loss
    rows = [{"round": 0, "test_loss": before, "seconds": 0.0, "up_bytes_total": 0, "down_bytes_total": 0}]
    for row in run:
        print(f"round {row['round']}: {row['test_loss']} in {row['seconds']:.1f} s", file=sys.stderr)
        rows.append({key: row[key] for key in rows[0]} | {"peak": peak_rss()})
    return rows


def runs(task: Task, seeds: Sequence[int], tuning: bool) -> Iterator[tuple[Contender, int]]:
    """Yield the runs: every contender on every seed, or, for tuning, every learning rate on the tuning seed."""
    for seed in seeds:
        for contender in task.contenders:
            yield contender, seed
    if tuning:
        for contender in task.contenders:
            yield from ((contender._replace(lr=lr), TUNING) for lr in contender.grid)


def compare(task: Task, seeds: int, tuning: bool, out: Path) -> list[dict[str, Any]]:
    """Train all runs that are not in ``out`` yet, and return one record per run."""
    if tuning:
        task = task._replace(data=held_back(task.data), rounds=task.rounds // 2)
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    records = []
    for contender, seed in runs(task, range(0 if tuning else seeds), tuning):
        key = {"method": contender.label, "lr": contender.lr, "seed": seed}
        record = next((row for row in done if key.items() <= row.items()), None)
        if record is None:
            record = key | measure(task, contender, seed)
            with out.open("a") as file:
                print(json.dumps(record), file=file)
            print(record, file=sys.stderr)
        records.append(record)
    return records


class Column(NamedTuple):
    """A column of a table; ``read`` returns its value for a record, or None if the record has none."""

    read: Callable[[dict[str, Any]], float | None]
    shown: str = ".3f"
    spread: bool = True

    def cell(self, records: Sequence[dict[str, Any]]) -> str:
        """Return mean ± standard deviation over ``records``, one per seed."""
        known = [value for record in records if (value := self.read(record)) is not None]
        if not known:
            return "–"
        spread = f" ± {statistics.stdev(known):{self.shown}}" if self.spread and len(known) > 1 else ""
        return f"{statistics.mean(known):{self.shown}}{spread}"


def table(records: Sequence[dict[str, Any]], columns: dict[str, Column]) -> str:
    """Return the records as a Markdown table, with one row for each method and learning rate."""
    lines = [f"| method | lr | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for label, lr in dict.fromkeys((record["method"], record["lr"]) for record in records):
        same = [record for record in records if (record["method"], record["lr"]) == (label, lr)]
        lines.append(f"| {label} | {lr:g} | {' | '.join(column.cell(same) for column in columns.values())} |")
    return "\n".join(lines)


def perplexity(key: str) -> Column:
    """Return a column that shows e to the loss ``key``, in nats."""
    return Column(lambda record: math.exp(record[key]) if key in record else None, ".2f")


MB = Column(lambda record: float(record["mb"]), ",.1f", spread=False)
COLUMNS = {
    "a": {"accuracy": Column(itemgetter("accuracy")), "loss": Column(itemgetter("loss")), "MB": MB},
    "b": {
        "perplexity": perplexity("loss"),
        "client texts: shared": perplexity("own_shared"),
        "client texts: personal": perplexity("own_personal"),
        "client texts: finetuned": perplexity("own_tuned"),
        "MB": MB,
    },
}


def rounds_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rounds of part (c) as a Markdown table."""
    lines = ["| round | held-out loss | perplexity | total MB | seconds |", "|---|---|---|---|---|"]
    for row in rows:
        mb, loss = (row["up_bytes_total"] + row["down_bytes_total"]) / 1e6, row["test_loss"]
        tested = "– | –" if loss is None else f"{loss:.3f} | {math.exp(loss):.2f}"
        lines.append(f"| {row['round']} | {tested} | {mb:.1f} | {row['seconds']:.1f} |")
    return "\n".join([*lines, "", f"Peak memory {(rows[-1]['peak'] or 0) / 1e9:.2f} GB."])


def main() -> None:
    """Run the benchmark, print a table and save the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of the texts and of stories260k")
    parser.add_argument("--part", choices=["a", "b", "c"], required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", action="store_true", help="try the learning rates on a separate seed")
    parser.add_argument(
        "--cache", type=Path, default=Path("benchmarks/results/models"), help="the folder for converted models"
    )
    parser.add_argument("--out", default="benchmarks/results/llm")
    args = parser.parse_args()
    out = Path(f"{args.out}-{args.part}{'-tune' * args.tune}.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    if args.part == "c":
        rows = dolly(args.data_dir, args.cache)
        out.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        print(rounds_table(rows))
        return
    task = (minilm if args.part == "a" else stories)(args.data_dir)
    print(table(compare(task, args.seeds, args.tune, out), COLUMNS[args.part]))


if __name__ == "__main__":
    main()
