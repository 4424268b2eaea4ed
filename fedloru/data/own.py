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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloru.advice import got, instead
from fedloru.data import tables
from fedloru.data.build import build
from fedloru.data.dataset import Dataset
from fedloru.data.labels import as_labels
from fedloru.data.memory import check_size, in_memory
from fedloru.data.parquet_rows import class_names
from fedloru.data.raw import Raw, Rows
from fedloru.data.sources import load
from fedloru.data.table import Table, check_names, rows_of
from fedloru.data.table import from_arrow as arrow_table
from fedloru.data.targets import Task
from fedloru.data.values import plain
from fedloru.errors import DataError, choices, optional, quoted, traced
from fedloru.settings import Setting, problems_of, settings_of

log = logging.getLogger("fedloru")

CLIENT = "client"
"""The column of the clients that are given as a sequence."""


def from_tensors(
    x: Any,
    y: Any,
    *,
    test: tuple[Any, Any] | None = None,
    client: Sequence[Any] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    classes: Sequence[str] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    standardize: bool = False,
    task: Task = "auto",
    name: str = "tensors",
) -> Dataset:
    """Return a data set of tensors or arrays: examples ``x`` and labels ``y``.

    ::

        data = fedloru.data.from_tensors(images, labels, client=hospitals)
        partition = fedloru.data.natural(data, "client")

    Args:
        x: the examples, numbers (N, d) or (N, C, H, W). Floats, and integers of 8 bits, become float32.
        y: the labels (N,), class indices or text; or numbers with decimal places, the targets of a regression.
        test: examples and labels to test on; by default, a part of x and y is held out.
        client: the name of the client of each example (N,), for ``natural(data, "client")``.
        columns: further keys by column, each (N,).
        classes: the names of the classes, in the order of the class indices.

    Raises:
        DataError: these are not numbers and labels with one row per example, or they cannot be split.
    """
    _check_settings(settings_of(load), {"test_fraction": test_fraction, "seed": seed, "task": task})
    keys = _keys(client, columns)
    rows = Rows(_examples(x, "x"), _labels(y, classes, name), keys)
    held = None if test is None else _test_rows(test, classes, name)
    remarks = () if standardize else _large(rows.x)
    raw = Raw(rows, held, None if classes is None else tuple(classes), remarks, scale=standardize)
    with in_memory(f"the data set {quoted(name)}"):
        return _noted(build(name, raw, test_fraction=test_fraction, seed=seed, task=task))


def from_torch(
    dataset: Any,
    *,
    test: Any = None,
    client: Sequence[Any] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    classes: Sequence[str] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    standardize: bool = False,
    task: Task = "auto",
    name: str | None = None,
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
    x, y = _read(dataset, "dataset")
    pair = None if test is None else _read(test, "test")
    found = getattr(dataset, "classes", None) if classes is None else classes
    named = found if isinstance(found, (list, tuple)) and all(isinstance(each, str) for each in found) else None
    return from_tensors(
        x, y, test=pair, client=client, columns=columns, classes=named, test_fraction=test_fraction, seed=seed,
        standardize=standardize, task=task, name=name,
    )  # fmt: skip


def from_frame(
    df: Any, label: str, *, client: str | None = None, test: Any = None, name: str = "frame", **settings: Any
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
    train, held = _frame(df, "df"), None if test is None else _frame(test, "test")
    coded = [str(column) for column, kind in df.dtypes.items() if str(kind) == "category" and column != label]
    settings["categorical"] = [*settings.get("categorical", ()), *(each for each in coded if each != client)]
    return _of_tables(name, train, held, label, client, settings)


def from_arrow(
    table: Any, label: str, *, client: str | None = None, test: Any = None, name: str = "table", **settings: Any
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
    train, held = _arrow(table, "table"), None if test is None else _arrow(test, "test")
    return _of_tables(name, train, held, label, client, settings)


def _of_tables(
    name: str, train: Table, test: Table | None, label: str, client: str | None, settings: dict[str, Any]
) -> Dataset:
    known = settings_of(tables.table, skip=frozenset({"path", "test", "label"}))
    _check_settings(known, settings)
    given = {key: setting.default for key, setting in known.items()} | settings
    splitting = {key: given.pop(key) for key in ("test_fraction", "seed", "task")}
    given["columns"] = tuple(dict.fromkeys([*given["columns"], *([] if client is None else [client])]))
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


def _keys(client: Sequence[Any] | None, columns: Mapping[str, Sequence[Any]] | None) -> dict[str, Sequence[Any]]:
    if isinstance(client, str):
        raise DataError(f"client is the text {quoted(client)}, expected one name for each example")
    return dict(columns or {}) | ({} if client is None else {CLIENT: client})


def _test_rows(test: Any, classes: Sequence[str] | None, name: str) -> Rows:
    if not isinstance(test, (tuple, list)) or len(test) != 2:
        raise DataError(f"test is {got(test)}, expected a pair (x, y){_hint(test)}")
    return Rows(_examples(test[0], "the test x"), _labels(test[1], classes, f"the test set of {name}"))


def _examples(x: Any, what: str) -> Tensor:
    """Return examples as a tensor, with 8-bit integers and floats as they are."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
        wide = x.dtype.kind == "u" and x.dtype.itemsize > 1  # torch computes little with these
        x = torch.from_numpy(np.ascontiguousarray(x.astype(np.int64 if wide else x.dtype.newbyteorder("="))))
    if isinstance(x, (list, tuple)) and x and not isinstance(x[0], Tensor):
        x = _tensor(x, what)
    if isinstance(x, (list, tuple)) and x:
        x = _stacked(x, what)
    if not isinstance(x, Tensor):
        raise DataError(f"{what} is {got(x)}, expected a tensor or an array of numbers{_hint(x)}")
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 2, 3, 4):
        raise DataError(
            f"{what} has shape {tuple(x.shape)}, which looks like images with their channels last, expected (N, C, H, "
            "W): use torch.as_tensor(x).permute(0, 3, 1, 2)"
        )
    check_size(x.numel(), x.element_size(), f"{what} of shape {tuple(x.shape)}")
    return x


def _tensor(x: Sequence[Any], what: str) -> Tensor:
    try:
        return torch.tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} is a {type(x).__name__} that is not a table of numbers ({error})") from error


def _stacked(x: Sequence[Any], what: str) -> Tensor:
    try:
        return torch.stack(list(x))
    except (TypeError, RuntimeError) as error:
        raise DataError(f"{what} cannot be stacked to one tensor ({error}): give all examples one shape") from error


def _labels(y: Any, classes: Sequence[str] | None, name: str) -> NDArray[Any]:
    """Return labels; with ``classes``, integers are class indices, and become the names of their classes."""
    found = as_labels(y, "y", name)
    if classes is None or found.dtype.kind not in "iu" or found.ndim > 1:
        return found
    if len(wrong := ((found < 0) | (found >= len(classes))).nonzero()[0]):
        raise DataError(
            f"{name}: the label of row {int(wrong[0])} is {found[wrong[0]]}, expected class indices from 0 to "
            f"{len(classes) - 1} for the {len(classes)} names in classes"
        )
    named: NDArray[Any] = np.array([str(each) for each in classes])[found]
    return named


def _large(x: Tensor) -> tuple[str, ...]:
    if x.ndim < 2 or not x.numel() or not (x.is_floating_point() or x.dtype == torch.uint8):
        return ()
    largest = float(x.abs().max())
    large = largest > tables.LARGE  # not of NaN, which is refused later
    return (f"x has values up to {largest:,.6g}; standardize=True suits most models better",) if large else ()


def _read(dataset: Any, what: str) -> tuple[Tensor, Any]:
    """Return the examples and the labels of a map-style data set, read one by one."""
    if not all(hasattr(dataset, method) for method in ("__getitem__", "__len__")) or isinstance(dataset, Tensor):
        endless = "it has no length, so read it into a list first: " if hasattr(dataset, "__iter__") else ""
        raise DataError(
            f"{what} is {got(dataset)}, expected a map-style torch Dataset of pairs (x, y){_hint(dataset, endless)}"
        )
    count = len(dataset)
    if not count:
        raise DataError(f"{what} has no examples")
    examples, y = torch.empty(0), []
    for row in range(count):
        x, label = _pair(dataset, row, what)
        if not row:
            check_size(count * x.numel(), x.element_size(), f"{what}: {count:,} examples of shape {tuple(x.shape)}")
            examples = torch.empty((count, *x.shape), dtype=x.dtype)
        if x.shape != examples.shape[1:] or x.dtype != examples.dtype:
            raise DataError(
                f"{what}[{row}] is {x.dtype} of shape {tuple(x.shape)}, but {what}[0] {examples.dtype} of shape "
                f"{tuple(examples.shape[1:])}: give all examples one shape, such as by a transform"
            )
        examples[row] = x
        y.append(label)
    return examples, _stacked(y, f"the labels of {what}") if isinstance(y[0], Tensor) else y


def _pair(dataset: Any, row: int, what: str) -> tuple[Tensor, Any]:
    try:
        item = dataset[row]
    except Exception as error:  # user code may raise anything
        raise DataError(f"{what}[{row}] failed: {traced(error)}; fix the data set") from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"{what}[{row}] is {got(item)}, expected a pair (x, y) of an example and its label")
    x, label = item
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
        x = torch.from_numpy(np.ascontiguousarray(x))
    if not isinstance(x, Tensor):
        raise DataError(
            f"{what}[{row}] has the example {got(x)}, expected a tensor: add a transform, such as torchvision's "
            "ToTensor for images"
        )
    return x.detach().cpu(), label.tolist() if isinstance(label, np.ndarray) and label.ndim == 0 else label


def _frame(df: Any, what: str) -> Table:
    if not any(base.__name__ == "DataFrame" and base.__module__.split(".")[0] == "pandas" for base in type(df).__mro__):
        raise DataError(f"{what} is {got(df)}, expected a pandas DataFrame{_hint(df)}")
    if df.columns.nlevels > 1:
        raise DataError(f"{what} has columns of {df.columns.nlevels} levels: give each column one name")
    names = [str(column) for column in df.columns]
    check_names(names, what)
    columns = {name: plain(df.iloc[:, at].tolist()) for at, name in enumerate(names)}
    return Table(columns, what, rows_of(what))


def _arrow(table: Any, what: str) -> Table:
    pa = optional("pyarrow", extra="data", purpose="reading Arrow tables")
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    if not isinstance(table, pa.Table):
        raise DataError(f"{what} is {got(table)}, expected a pyarrow Table{_hint(table)}")
    return arrow_table(table, what, classes=class_names(table, what))


def _hint(value: Any, before: str = "") -> str:
    advice = instead(value)
    return f": {before}{advice}" if before or advice else ""
