"""``load`` reads a data source and returns a ``Dataset``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from fedloru.data import builtin, sites
from fedloru.data.build import build
from fedloru.data.catalogue import SOURCES
from fedloru.data.dataset import Dataset
from fedloru.data.memory import in_memory
from fedloru.data.raw import Raw, Rows
from fedloru.data.targets import Task
from fedloru.errors import DataError, choices, quoted
from fedloru.settings import REQUIRED, problems_of, settings_of, short
from fedloru.settings.types import Fraction, Whole

log = logging.getLogger("fedloru")


def load(
    source: str, *, test_fraction: Fraction = 0.2, seed: Whole = 0, task: Task = "auto", **settings: Any
) -> Dataset:
    """Load a data set from one of ``SOURCES``; images and vectors are standardised on the training examples.

    Args:
        source: the name of the source, or ``python:package.module:function``.
        test_fraction: the fraction of each class that is held out for testing if the source has no test set.
        seed: the seed of the held-out examples; it does not follow the run's seed, so that all runs are tested on the
            same examples.
        task: what labels are: classes, or numbers that a regression predicts; by default, numbers with decimal places
            are targets of a regression, and all other labels are classes.
        settings: the settings of the source, such as ``path``.

    Raises:
        DataError: the source or a setting is unknown, or the data is missing or malformed.
    """
    settings = {name: fspath(value) if isinstance(value, PathLike) else value for name, value in settings.items()}
    reader = SOURCES.find(source)
    known = settings_of(reader)
    shared = {"test_fraction": test_fraction, "seed": seed, "task": task}
    given = settings | {name: value for name, value in shared.items() if name in known}
    for name in given.keys() - known.keys():
        raise DataError(f"the data source {source!r} has no setting {name!r}{choices(name, known)}")
    for name, setting in known.items():
        if setting.default is REQUIRED and name not in given:
            raise DataError(f"the data source {source!r} needs {name}: set data.{name}")
    for problem in problems_of(known, given):
        raise DataError(f"the data source {source!r}: {problem}")
    name = sites.named(settings["path"]) if "path" in settings else short(source)
    try:
        with in_memory(f"the data set {quoted(name)}"):
            data = _built(name, source, reader(**given), test_fraction, seed, task)
    except OSError as error:
        raise DataError(f"the data set {quoted(name)} cannot be read: {error.strerror or error}") from error
    for remark in data.remarks:
        log.warning("%s", remark)
    return data


def _built(name: str, source: str, made: Any, test_fraction: float, seed: int, task: Task) -> Dataset:
    if isinstance(made, Dataset):
        return made
    if isinstance(made, Rows):
        made = Raw(made)
    if not isinstance(made, Raw):
        raise DataError(f"{source} returned {type(made).__name__}, not fedloru.data.Raw, Rows or Dataset; return one")
    return build(name, made, test_fraction=test_fraction, seed=seed, task=task)


def synthetic(
    examples: int = 2000,
    shape: Sequence[int] = (32,),
    classes: int = 10,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Generate a classification problem, a mixture of Gaussians.

    Args:
        examples: the number of examples, training and test together.
        shape: the shape of an example, (d,) or (C, H, W).
        classes: the number of classes.
        test_fraction: the fraction of each class that is held out for testing.
        seed: the seed of the examples and of those that are held out.

    Raises:
        DataError: there are fewer than 2 examples per class.
    """
    if examples < 2 * classes:
        raise DataError(f"{examples} examples are too few for {classes} classes: at least {2 * classes} are needed")
    rows = builtin.gaussians(examples, shape, classes, seed)
    return build("synthetic", Raw(rows), test_fraction=test_fraction, seed=seed)
