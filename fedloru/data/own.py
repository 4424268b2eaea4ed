"""Data sets from values in memory: tensors, data sets of torch, data frames and Arrow tables.

Args:
    test_fraction: the fraction of each class that is held out for testing if no test examples are given.
    seed: the seed of the held-out examples.
    standardize: whether numbers are standardized by the mean and the standard deviation of the training examples.
    task: what labels are: classes, or numbers that a regression predicts; see ``fedloru.data.load``.
    name: the name of the data set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedloru.advice import got, hint
from fedloru.data import arrays, doubts, frames, items, tables
from fedloru.data.build import build
from fedloru.data.dataset import Dataset
from fedloru.data.examples import class_names
from fedloru.data.memory import in_memory
from fedloru.data.raw import Raw, Rows
from fedloru.data.table import Table
from fedloru.data.targets import Task
from fedloru.errors import DataError, choices, quoted
from fedloru.settings import Setting, problems_of, settings_of
from fedloru.settings.types import Flag, Fraction, Text, Whole

log = logging.getLogger("fedloru")

CLIENT = "client"
"""The column of the clients that are given as a sequence."""


def from_tensors(
    x: Any,
    y: Any,
    *,
    test: tuple[Any, ...] | None = None,
    client: Sequence[Any] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    classes: Sequence[str] | None = None,
    test_fraction: Fraction = 0.2,
    seed: Whole = 0,
    standardize: Flag = False,
    task: Task = "auto",
    name: Text = "tensors",
) -> Dataset:
    """Return a data set of tensors or arrays: examples ``x`` and labels ``y``.

    ::

        data = fedloru.data.from_tensors(images, labels, client=hospitals)
        partition = fedloru.data.natural(data, "client")

    Args:
        x: the examples, numbers (N, d) or (N, C, H, W). Floats, and integers of 8 bits, become float32.
        y: the labels (N,), class indices or text; or numbers with decimal places, the targets of a regression.
        test: examples and labels to test on, (x, y), or with the client of each, (x, y, client), so that clients are
            scored on their own; by default, a part of x and y is held out.
        client: the name of the client of each example (N,), for ``natural(data, "client")``.
        columns: further keys by column, each (N,).
        classes: the names of the classes, in the order of the class indices.

    Raises:
        DataError: these are not numbers and labels with one row per example, or they cannot be split.
    """
    given = {"test_fraction": test_fraction, "seed": seed, "standardize": standardize, "task": task, "name": name}
    _check_settings(settings_of(from_tensors), given)
    names = None if classes is None else class_names(name, classes)
    rows = Rows(arrays.examples(x, "x"), arrays.labels(y, names, name), _keys(client, columns))
    held = None if test is None else _test_rows(test, names, name)
    raw = Raw(rows, held, names, () if standardize else _large(rows.x), scale=standardize)
    with in_memory(f"the data set {quoted(name)}"):
        return _noted(build(name, raw, test_fraction=test_fraction, seed=seed, task=task))


def from_torch(
    dataset: Any,
    *,
    test: Any = None,
    client: Sequence[Any] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    classes: Sequence[str] | None = None,
    test_fraction: Fraction = 0.2,
    seed: Whole = 0,
    standardize: Flag = False,
    task: Task = "auto",
    name: Text | None = None,
) -> Dataset:
    """Return the examples of a map-style torch ``Dataset`` that yields pairs of an example and a label.

    Every example is read once, with the transforms of the data set, and kept in memory. So random transforms are
    applied once: for new ones in every epoch, use ``Recipe(crop=4, flip=True)``.

    Args:
        dataset: the data set; its examples are tensors or arrays of one shape.
        test: a data set to test on; by default, a part of ``dataset`` is held out.
        client: the name of the client of each example (N,), for ``natural(data, "client")``.
        columns: further keys by column, each (N,).
        classes: the names of the classes, in the order of the class indices; by default ``dataset.classes``, if it has
            them.
        name: the name of the data set; by default that of its class.

    Raises:
        DataError: the data set has no length, or fails; its examples are not pairs of tensors of one shape and labels;
            or they do not fit into memory.
    """
    name = type(dataset).__name__ if name is None else name
    x, y = items.read(dataset, "dataset")
    pair = None if test is None else items.read(test, "test")
    found = getattr(dataset, "classes", None) if classes is None else classes
    named = found if isinstance(found, (list, tuple)) and all(isinstance(each, str) for each in found) else None
    return from_tensors(
        x, y, test=pair, client=client, columns=columns, classes=named, test_fraction=test_fraction, seed=seed,
        standardize=standardize, task=task, name=name,
    )  # fmt: skip


def from_frame(
    df: Any, label: Text, *, client: Text | None = None, test: Any = None, name: Text = "frame", **settings: Any
) -> Dataset:
    """Return a data set of the rows of a pandas ``DataFrame``, like ``load("csv", …)`` of those of a file.

    ::

        data = fedloru.data.from_frame(df, label="disease", client="hospital", missing="median", standardize=True)
        partition = fedloru.data.natural(data, "hospital")

    Args:
        df: the data frame; its index is not used, and its columns of the type category are categories.
        label: the column of labels.
        client: the column that says whose row it is, for ``natural(data, client)``; it is no feature.
        test: a data frame to test on; by default, a part of ``df`` is held out.
        settings: further settings of the source csv, such as ``features``, ``missing`` and ``standardize``.

    Raises:
        DataError: this is not a data frame, a column is missing, or a value cannot be used; the message names its row.
    """
    train, held = frames.frame(df, "df"), None if test is None else frames.frame(test, "test")
    coded = [str(column) for column, kind in df.dtypes.items() if str(kind) == "category"]
    return _of_tables(name, train, held, label, client, settings, coded)


def from_arrow(
    table: Any, label: Text, *, client: Text | None = None, test: Any = None, name: Text = "table", **settings: Any
) -> Dataset:
    """Return a data set of the rows of a pyarrow ``Table``; see ``from_frame``.

    Args:
        table: the table; the JSON list ``classes`` in its metadata names the classes.
        label: the column of labels.
        client: the column that says whose row it is, for ``natural(data, client)``; it is no feature.
        test: a table to test on; by default, a part of ``table`` is held out.
        settings: further settings of the source csv, such as ``features``, ``missing`` and ``standardize``.

    Raises:
        DataError: this is not a table, a column is missing, or a value cannot be used; the message names its row.
    """
    train, held = frames.arrow(table, "table"), None if test is None else frames.arrow(test, "test")
    return _of_tables(name, train, held, label, client, settings)


def _of_tables(
    name: str,
    train: Table,
    test: Table | None,
    label: str,
    client: str | None,
    settings: dict[str, Any],
    coded: Sequence[str] = (),
) -> Dataset:
    """Return the data set of tables; ``coded`` columns are categories, if they are features."""
    _check_settings(settings_of(from_frame), {"label": label, "client": client, "name": name})
    known = settings_of(tables.table, skip=frozenset({"path", "test", "label"}))
    _check_settings(known, settings)
    given = {key: setting.default for key, setting in known.items()} | settings
    splitting = {key: given.pop(key) for key in ("test_fraction", "seed", "task")}
    given["columns"] = tuple(dict.fromkeys([*given["columns"], *([] if client is None else [client])]))
    given["categorical"] = (*given["categorical"], *(each for each in coded if each != label))
    with in_memory(f"the data set {quoted(name)}"):
        raw = tables.encoded(name, train, test, tables.Options(label, **given), **splitting)
        return _noted(build(name, raw, **splitting))


def _check_settings(known: Mapping[str, Setting], given: Mapping[str, Any]) -> None:
    for key in given.keys() - known.keys():
        raise DataError(f"there is no setting {key!r}{choices(key, known)}")
    for problem in problems_of(known, given):
        raise DataError(problem)


def _noted(data: Dataset) -> Dataset:
    for remark in data.remarks:
        log.warning("%s", remark)
    return data


def _keys(client: Any, columns: Any = None) -> dict[str, Any]:
    """Return the keys of examples by column."""
    if columns is not None and not isinstance(columns, Mapping):
        raise DataError(f"columns is {got(columns)}, expected a dict from columns to one name for each example")
    found: dict[str, Any] = {**(columns or {}), **({} if client is None else {CLIENT: client})}
    for name, each in found.items():
        if isinstance(each, str) or not hasattr(each, "__iter__"):
            what = f"the text {quoted(each)}" if isinstance(each, str) else quoted(each)
            raise DataError(f"{name} is {what}, expected one name for each example")
    return found


def _test_rows(test: Any, classes: Sequence[str] | None, name: str) -> Rows:
    if not isinstance(test, (tuple, list)) or len(test) not in (2, 3):
        raise DataError(f"test is {got(test)}, expected a pair (x, y), or (x, y, client){hint(test)}")
    x, y, *client = test
    labels = arrays.labels(y, classes, f"the test set of {name}")
    return Rows(arrays.examples(x, "the test x"), labels, _keys(*client) if client else {})


def _large(x: Tensor) -> tuple[str, ...]:
    if x.ndim < 2 or not x.numel() or not (x.is_floating_point() or x.dtype == torch.uint8):
        return ()
    largest = float(x.detach().abs().max())
    large = largest > doubts.LARGE  # not of NaN, which is refused later
    return (f"x has values up to {largest:,.6g}; standardize=True suits most models better",) if large else ()
