"""Read tables of texts: from a file, a folder, or a data set on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedloru.data import files, hub, sites, values
from fedloru.data.parquet_rows import check_classes
from fedloru.data.table import Table
from fedloru.errors import DataError, listed


class Tables(NamedTuple):
    """The tables for training and testing; if ``test`` is None, a part of ``train`` is to be held out.

    ``remarks`` are sentences about how they were read; see ``Dataset.remarks``.
    """

    train: Table
    test: Table | None = None
    classes: tuple[str, ...] | None = None
    remarks: tuple[str, ...] = ()


def read(
    path: sites.Paths,
    test: str | None = None,
    subset: str | None = None,
    label: str | None = None,
    columns: Sequence[str] = (),
) -> Tables:
    """Read one or two files, one file per site, or the splits ``train`` and ``test`` of a data set.

    A folder has one file per site if ``columns`` has the column ``file``, the name of the site of each row.
    ``test`` names a second file, or another split. ``subset`` names a configuration of a data set on the hub. Class
    names for the column ``label`` are taken from the metadata, if it has any.

    Raises:
        DataError: a file, split or data set is missing, or cannot be read.
    """
    if not isinstance(path, str) or (sites.FILE in columns and Path(path).exists()):
        return _of_sites(path, test, columns)
    place = Path(path)
    if place.is_file():
        train, held_out = files.read(place), files.read(_test_file(test)) if test else None
        if held_out:
            check_classes(train.where, train.classes, held_out.where, held_out.classes)
        return Tables(train, held_out, train.classes)
    known = place.suffix.lower() in files.READERS
    if not place.is_dir() and (known or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path)):
        raise DataError(f"there is no file or folder {path}: check data.path")
    splits = hub.splits(path, subset, label)
    name = test or "test"
    train, remarks = splits.read("train"), splits.unread(("train", name))
    return Tables(train, splits.read(name) if test or name in splits.readers else None, train.classes, remarks)


def _of_sites(path: sites.Paths, test: str | None, columns: Sequence[str]) -> Tables:
    found = sites.find(path, test)
    train, held_out = sites.read(found.files, columns, alike=False), files.read(found.test) if found.test else None
    if held_out:
        check_classes(train.where, train.classes, held_out.where, held_out.classes)
    return Tables(train, held_out, train.classes, found.remarks)


def strings(table: Table, name: str, where: str, *, empty: bool = False) -> list[str]:
    """Return a column of texts. If ``empty``, empty texts are allowed, and missing values become empty texts.

    Raises:
        DataError: there is no such column, it does not hold text, or texts are empty.
    """
    texts = values.texts(table[name], name, where, table.place)
    if not empty:
        refuse_empty(table, texts, name, where)
    return texts


def refuse_empty(table: Table, texts: Sequence[str], name: str, where: str) -> None:
    """Check that no text of the rows of ``table`` is empty or only white space.

    Raises:
        DataError: some are; the message names the first.
    """
    if blank := [row for row, text in enumerate(texts) if not text.strip()]:
        raise DataError(
            f"{where}: {len(blank)} of {len(texts)} rows have an empty {name!r} (rows {listed(blank)}, from 0), "
            f"first {table.place(blank[0])}: drop them, or name another column"
        )


def labels(table: Table, name: str, where: str) -> Any:
    """Return the column ``name`` as labels (N,): integers, or text.

    Raises:
        DataError: the column or some of its values are missing, or they are neither integers nor text.
    """
    return values.labels(table[name], name, where, table.place)


def keys(table: Table, names: Sequence[str], where: str) -> dict[str, tuple[str, ...]]:
    """Return the columns ``names`` as keys, for natural partitions.

    Raises:
        DataError: a column or some of its values are missing or not exact.
    """
    return {name: values.keys(table[name], name, where, table.place) for name in names}


def _test_file(path: str) -> Path:
    if not Path(path).is_file():
        raise DataError(f"there is no test file {path}: check data.test, which must be a file if data.path is a file")
    return Path(path)
