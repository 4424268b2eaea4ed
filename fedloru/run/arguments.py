"""Checks of what a run is called with from Python: a plain module, a DataLoader or an array is refused with advice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedloru.data import Partition
from fedloru.data.dataset import dataset_problem
from fedloru.errors import ConfigError
from fedloru.method import Method
from fedloru.net import Net
from fedloru.recipe import Recipe

EXPECTED: dict[str, tuple[type, str]] = {
    "net": (Net, "a Net: fedloru.attach(model, rank=8), or fedloru.make(model) to train all weights"),
    "method": (Method, "a method, such as fedloru.fedloru(tau=5)"),
    "partition": (Partition, "a partition, such as fedloru.data.iid(dataset, clients=10)"),
    "recipe": (Recipe, "a fedloru.Recipe, such as Recipe(lr=0.1, batch_size=32)"),
}


def check_arguments(**given: Any) -> None:
    """Check that the ``given`` parts of a run have the types that their names stand for.

    Raises:
        ConfigError: one has another type; all are named, each with how to make it.
    """
    if problems := [problem for name, value in given.items() for problem in _problems(name, value)]:
        raise ConfigError(problems, "the run")


def _problems(name: str, value: Any) -> Iterator[str]:
    if name == "dataset":
        if problem := dataset_problem(value):
            yield problem
        return
    expected, phrase = EXPECTED[name]
    if not isinstance(value, expected):
        got = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        yield f"{name} is {got}, expected {phrase}"
