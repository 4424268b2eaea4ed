"""The source of tables with named columns: numbers and categories become features, one column is the label.

A table is one file, or one file per site. Everything that is learned from rows, such as categories, medians and means,
is learned from training rows only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator

from fedloru.data import doubts, files, sites, values
from fedloru.data import features as encodings
from fedloru.data.build import held_out
from fedloru.data.cells import NUMBER, is_numeric
from fedloru.data.features import Encoding, Missing
from fedloru.data.parquet_rows import check_classes
from fedloru.data.raw import Raw, Rows
from fedloru.data.table import Table
from fedloru.data.targets import Task, kind_of
from fedloru.errors import DataError, choices, quoted
from fedloru.settings import Expected
from fedloru.settings.types import Flag, Fraction, Place, Text, Texts, Whole, listed

Features = Annotated[
    Sequence[str] | Mapping[str, str | Sequence[str]],
    BeforeValidator(listed),
    Expected("a list of columns, or a table from columns to 'number', 'category' or lists of categories"),
]
Fill = Annotated[Mapping[str, float | str], Expected("a table from columns to numbers or categories")]

INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
DIGITS = re.compile(r"[+-]?[0-9]+")
CATEGORY = "category"
TELLING_ROWS, TELLING_VALUES = 50, 20
"""From how many rows on, and up to how many values, a column that says every label is remarked."""


class Options(NamedTuple):
    """The settings of a table, except those of files; see ``table``."""

    label: str
    features: Sequence[str] | Mapping[str, str | Sequence[str]] = ()
    columns: Sequence[str] = ()
    categorical: Sequence[str] = ()
    standardize: bool = False
    missing: Missing = "refuse"
    na: Sequence[str] = ()
    fill: Mapping[str, float | str] | None = None


def table(
    *,
    path: Place,
    test: Text | None = None,
    label: Text = "label",
    features: Features = (),
    columns: Texts = (),
    categorical: Texts = (),
    standardize: Flag = False,
    missing: Missing = "refuse",
    na: Texts = (),
    fill: Fill | None = None,
    test_fraction: Fraction = 0.2,
    seed: Whole = 0,
    task: Task = "auto",
) -> Raw:
    """Read tables with named columns: CSV, TSV, JSON, JSON Lines or parquet files, one in all or one per site.

    A column of numbers is one feature, a column of text one feature per category. The column ``file`` has the name of
    the site that a row comes from.

    Args:
        path: a file; a folder with one file per site, such as berlin.csv and paris.csv; or a table from names of sites
            to files. A folder with only train and test files is one data set.
        test: a second file, of test rows; by default, a part of each class is held out.
        label: the column of labels.
        features: the columns to use, with 'number', 'category' or a list of categories for each, if it is a table; by
            default all but label and columns, with the categories of the training rows.
        columns: columns of keys to keep, for natural partitions; they are no features.
        categorical: columns of integers that are categories, such as codes.
        standardize: whether numbers are standardized by the mean and the standard deviation of the training rows.
        missing: what happens to missing values: refuse; or fill in the median or the mean of the training rows, or the
            most frequent category; indicator is median, with one more feature per column that is 1 where the value is
            missing.
        na: texts that stand for missing values, such as "NA"; empty values are always missing.
        fill: the values for missing ones by column; by default learned from the training rows.

    Raises:
        DataError: a file or a column is missing, or a value cannot be used; the message names its row.
    """
    options = Options(label, features, columns, categorical, standardize, missing, na, fill)
    found = sites.find(path, test)
    train, held = sites.read(found.files, columns), None
    if found.test is not None:
        held = files.read(found.test)
        check_classes(train.where, train.classes, held.where, held.classes)
    made = encoded(sites.named(path), train, held, options, test_fraction, seed, task)
    return made._replace(remarks=(*found.remarks, *made.remarks))


def encoded(
    name: str, train: Table, test: Table | None, options: Options, test_fraction: float, seed: int, task: Task
) -> Raw:
    """Return the rows of ``train`` as features, and those of ``test``, or a part of ``train`` that is held out.

    Raises:
        DataError: a column is missing, or a value cannot be used.
    """
    if not train.num_rows:
        raise DataError(f"{train.where} has no rows")
    kinds = _kinds(train, options)
    encodings.check_filled(kinds, options.missing, options.fill or {})
    y = _labels(train, options)
    keys = {each: values.keys(train[each], each, train.where, train.place) for each in options.columns}
    found = _read(train, kinds, options)
    rows = torch.arange(train.num_rows)
    if test is None:
        held = held_out(_strata(name, y, keys, task), test_fraction, seed)
        fitted, drawn = rows[~held].numpy(), rows[held].numpy()
        tested, y_test, test_keys = _take(found, drawn), y[drawn], _take_keys(keys, drawn)
    else:
        fitted, tested, y_test = rows.numpy(), _read(test, kinds, options), _labels(test, options)
        known = [each for each in options.columns if each in test.column_names]
        test_keys = {each: values.keys(test[each], each, test.where, test.place) for each in known}
    learned = _take(found, fitted)
    encoding = encodings.fit(learned, _declared(options), options.missing, options.fill, options.standardize)
    encoding = encoding._replace(na=tuple(options.na))
    (x, unknown), (x_test, unknown_test) = (encodings.encode(encoding, each) for each in (learned, tested))
    remarks = [*encodings.remarks("training", unknown), *encodings.remarks("test", unknown_test)]
    if not options.standardize and float(x.abs().max()) > doubts.LARGE:
        large = encoding.names[int(x.abs().amax(0).argmax())]
        remarks.append(
            f"the feature {quoted(large)} has values up to {float(x.abs().max()):,.6g}; standardize = true suits most "
            "models better"
        )
    remarks += doubts.of_categories(encoding.columns)
    if kind_of(name, y, task) == "classification":
        remarks += _telling(learned, y[fitted])
    learned_rows, test_rows = Rows(x, y[fitted], _take_keys(keys, fitted)), Rows(x_test, y_test, test_keys)
    return Raw(learned_rows, test_rows, train.classes, tuple(remarks), scale=False, encoding=encoding)


def _take_keys(keys: Mapping[str, Sequence[str]], rows: NDArray[np.int64]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values[row] for row in rows.tolist()) for name, values in keys.items()}


def _telling(columns: Mapping[str, NDArray[np.generic]], y: NDArray[np.generic]) -> Iterator[str]:
    """Yield a remark for each column that alone says the label of every row, such as one that the label was made of."""
    names, label = np.unique(y, return_inverse=True)
    classes = len(names)
    if len(y) < TELLING_ROWS or classes < 2:
        return
    for name, each in columns.items():
        texts = (
            np.array([text or "" for text in each]) if each.dtype == object else each
        )  # None, if missing, has no order
        found, value = np.unique(texts, return_inverse=True)
        if len(found) <= TELLING_VALUES and len(np.unique(value * classes + label)) == len(found):
            yield (
                f"column {name!r} says the label of every training row: each of its {len(found)} values has one label "
                "only. If it was made from the label, or is known only later, leave it out with data.features"
            )


def _strata(name: str, y: NDArray[np.generic], keys: Mapping[str, Sequence[str]], task: Task) -> NDArray[np.int64]:
    """Return the stratum of each row, of which a part is held out: its class, if it has one, and its site."""
    strata = np.zeros(len(y), np.int64)
    if kind_of(name, y, task) == "classification":
        strata = np.unique(y, return_inverse=True)[1]
    if sites.FILE in keys:
        _, site = np.unique(np.array(keys[sites.FILE]), return_inverse=True)
        strata = strata * len(keys[sites.FILE]) + site
    return strata


def _kinds(table: Table, options: Options) -> dict[str, bool]:
    """Return for each column of features whether it has numbers."""
    others = {options.label, *options.columns}
    if not options.features and any(not name.strip() for name in table.column_names):
        raise DataError(
            f"{table.where} has a column without a name, like the index that pandas writes: remove it "
            "(to_csv(index=False)), or list the columns to use in data.features"
        )
    names = list(options.features) or [name for name in table.column_names if name not in others]
    for name in (*names, *options.categorical):
        if name not in table.column_names:
            raise DataError(f"{table.where} has no column {name!r}{choices(name, table.column_names)}")
        if name == options.label:
            raise DataError(f"the column {name!r} is the label and a feature: remove it from data.features")
    if not names:
        raise DataError(f"{table.where} has no columns besides {', '.join(map(repr, sorted(others)))}: add features")
    declared = options.features if isinstance(options.features, Mapping) else {}
    found = {}
    for name in names:
        kind = CATEGORY if name in options.categorical else declared.get(name)
        if isinstance(kind, str) and kind not in (encodings.NUMBER, CATEGORY):
            raise DataError(f"data.features has {quoted(kind)} for {name!r}, expected 'number', 'category' or a list")
        found[name] = is_numeric(table, name, options.na) if kind is None else kind == encodings.NUMBER
    return found


def _declared(options: Options) -> dict[str, tuple[str, ...]]:
    """Return the categories that ``data.features`` lists, by column."""
    if not isinstance(options.features, Mapping):
        return {}
    declared = {name: tuple(kind) for name, kind in options.features.items() if not isinstance(kind, str)}
    for name, known in declared.items():
        if not known or len(set(known)) < len(known):
            raise DataError(f"data.features has {quoted(list(known))} for {name!r}, expected different categories")
    return declared


def _read(table: Table, kinds: Mapping[str, bool], options: Options) -> dict[str, NDArray[np.generic]]:
    found = encodings.read(table, kinds, options.na)
    if options.missing == "refuse":
        encodings.check_complete(table, found)
    return found


def _labels(table: Table, options: Options) -> NDArray[np.generic]:
    """Return the labels; texts of files without types are numbers if all of them are."""
    found = [None if value in options.na else value for value in values.plain(table[options.label])]
    if not table.typed and all(isinstance(value, str) for value in found):
        texts = [value.strip() for value in found if isinstance(value, str)]
        if all(map(INTEGER.fullmatch, texts)):
            found = [int(text) for text in texts]
        elif all(map(NUMBER.fullmatch, texts)) and not all(map(DIGITS.fullmatch, texts)):
            found = [float(text) for text in texts]
    return values.labels(found, options.label, table.where, table.place, floats=True)


def _take(columns: Mapping[str, NDArray[np.generic]], rows: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
    return {name: each[rows] for name, each in columns.items()}


def open_settings(encoding: Encoding) -> dict[str, object]:
    """Return the settings of a table that say what was learned from its training rows."""
    return {"features": encoding.declaration, "fill": encoding.fill or None}
