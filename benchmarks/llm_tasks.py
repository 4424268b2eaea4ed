"""The tasks of llm.py: texts and their partition, a model, the recipe and the methods to compare."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import pretrained
import torch
from torch import Tensor, nn

import fedloru as fl
from fedloru import methods
from fedloru.data import Dataset, Examples, Partition
from fedloru.hf import Classify, Plain
from fedloru.method import Method
from fedloru.recipe import Recipe

TUNING = 100
"""The seed on which learning rates are chosen."""


class Contender(NamedTuple):
    """A method to compare, its learning rate, and the grid from which that was chosen."""

    label: str
    method: Callable[[], Method]
    lr: float
    grid: tuple[float, ...]


class Task(NamedTuple):
    """A task; ``partition`` returns the clients for a seed."""

    data: Dataset
    partition: Callable[[Dataset, int], Partition]
    model: nn.Module
    targets: tuple[str, ...] | None
    rank: int
    alpha: float
    rounds: int
    cohort: int
    recipe: Recipe
    contenders: tuple[Contender, ...]


def minilm(data: Path) -> Task:
    """Return part (a): MiniLM classifies the sentences of SST-2."""
    folder = pretrained.minilm()
    path, test = (str(data / f"sst2_{part}.parquet") for part in ("train", "validation"))
    texts = fl.hf.texts(fl.hf.tokenizer(folder), path, Classify(), test=test, max_length=48)
    model = fl.hf.load(folder, task="classify", classes=texts.classes)

    def partition(data: Dataset, seed: int) -> Partition:
        return fl.data.dirichlet(data, 20, 0.5, seed, min_examples=50)

    texts, model = warmed(texts, model)
    low, whole = (1.5e-4, 5e-4), (2e-5, 6e-5)
    contenders = (
        Contender("FedAvg", methods.fedavg, 6e-5, whole),
        Contender("FedLoRA", methods.fedlora, 5e-4, low),
        Contender("FFA-LoRA", methods.ffalora, 5e-4, low),
        Contender("FedEx-LoRA", methods.fedex, 5e-4, low),
        Contender("FedLoRU as published, τ=5", lambda: methods.fedloru(recipe="paper", tau=5), 5e-4, low),
        Contender("FedLoRU", methods.fedloru, 1.5e-4, (5e-5, *low)),
    )
    recipe = Recipe("adamw", steps=6, batch_size=16, clip=1.0, schedule="cosine", bucket=True)
    targets = ("bert.encoder.*", "bert.pooler.*")
    return Task(texts, partition, model, targets, 4, 32.0, 15, 4, recipe, contenders)


def warmed(data: Dataset, model: nn.Module, count: int = 1024, steps: int = 128) -> tuple[Dataset, nn.Module]:
    """Train the model on ``count`` texts of the server first; return the other texts and the trained model.

    With skewed labels, a fresh head on MiniLM's pooler learns nothing in as few rounds as two cores can run.
    """
    rest, server_texts = split(data, count, seed=0)
    alone = Partition("server", 0, (torch.arange(count),), (), {})
    recipe = Recipe("adamw", lr=2e-4, steps=steps, batch_size=16, clip=1.0, bucket=True)
    start = data._replace(train=server_texts)
    run = fl.run(fl.hf.make(model), methods.fedavg(), start, alone, rounds=1, cohort=1, recipe=recipe)
    accuracy = [row["test_accuracy"] for row in run][-1]
    print(f"the server's model, trained on {count} texts: accuracy {accuracy:.3f}", file=sys.stderr)
    return rest, fl.hf.prepare(run.model(), trained=["classifier.weight", "classifier.bias"])


def stories(data: Path) -> Task:
    """Return part (b): stories260k on the speakers of a play."""
    folder = str(data / "models" / "stories260k")
    path = str(data / "tinyshakespeare_by_speaker_all.parquet")
    texts = fl.hf.texts(
        fl.hf.tokenizer(folder), path, Plain(), columns=["speaker"], max_length=64, pack=True, positions=512
    )

    def partition(data: Dataset, seed: int) -> Partition:
        return fl.data.natural(data, "speaker", seed, min_examples=20, allow_unused=True, test_fraction=0.2)

    low, whole = (3e-3, 1e-2), (3e-3, 1e-2)
    contenders = (
        Contender("FedAvg", methods.fedavg, 3e-3, whole),
        Contender("FedLoRA", methods.fedlora, 1e-2, low),
        Contender("FedSA-LoRA", methods.fedsa, 1e-2, low),
        Contender("FedLoRU as published, τ=8", lambda: methods.fedloru(recipe="paper", tau=8), 1e-2, low),
        Contender("FedLoRU", methods.fedloru, 3e-3, low),
        Contender("pFedLoRU τ=8", lambda: methods.pfedloru(tau=8), 3e-3, low),
    )
    recipe = Recipe("adamw", epochs=1, batch_size=8, clip=1.0, schedule="cosine")
    return Task(texts, partition, fl.hf.load(folder), ("model.layers.*",), 4, 32.0, 24, 8, recipe, contenders)


def held_back(data: Dataset, seed: int = TUNING, count: int = 500) -> Dataset:
    """Return ``data`` with ``count`` training examples as test examples, for choosing learning rates.

    They are taken from the longest quarter, since the test texts of SST-2 are whole sentences, while most training
    texts are parts of sentences.
    """
    length = data.train["length"].float()
    rest, tests = split(data, count, seed, length >= length.quantile(0.75))
    return rest._replace(test=tests)


def split(data: Dataset, count: int, seed: int, among: Tensor | None = None) -> tuple[Dataset, Examples]:
    """Take ``count`` random training examples out of ``data``; return the rest and these examples.

    ``among`` (N,) masks the examples that may be taken.
    """
    rows = torch.randperm(len(data.train["length"]), generator=torch.Generator().manual_seed(seed))
    taken = (rows if among is None else rows[among[rows]])[:count]
    rest = torch.ones(len(rows), dtype=torch.bool)
    rest[taken] = False
    columns = {name: tuple(compress(values, rest.tolist())) for name, values in data.columns.items()}
    train = {key: value[rest] for key, value in data.train.items()}
    return data._replace(train=train, columns=columns), {key: value[taken] for key, value in data.train.items()}
