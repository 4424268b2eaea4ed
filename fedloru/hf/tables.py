"""Read tables of texts: from a parquet or JSON Lines file, a folder, or a data set on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedloru.data import tables
from fedloru.data.partition import listed
from fedloru.errors import DataError, choices, optional

LINES, PARQUET = (".jsonl", ".ndjson", ".json"), ".parquet"


class Tables(NamedTuple):
    """The pyarrow tables for training and testing; if ``test`` is None, a part of ``train`` is to be held out."""

    train: Any
    test: Any = None
    classes: tuple[str, ...] | None = None


def read(path: str, test: str | None = None, subset: str | None = None, label: str | None = None) -> Tables:
    """Read one or two files, or the splits ``train`` and ``test`` of a data set.

    ``test`` names a second file, or another split. ``subset`` names a configuration of a data set on the hub. Class
    names for the column ``label`` are taken from the metadata, if it has any.

    Raises:
        DataError: a file, split or data set is missing, or cannot be read.
    """
    place = Path(path)
    if place.is_file():
        train = _file(place)
        return Tables(train, _file(_test_file(test)) if test else None, tables.class_names(train, place))
    if not place.is_dir() and (place.suffix in (PARQUET, *LINES) or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path)):
        raise DataError(f"there is no file or folder {path}: check data.path")
    splits = tables.splits(path, subset)
    if test is not None and test not in splits:
        raise DataError(f"the data set {path!r} has no split {test!r}{choices(test, splits)}")
    held_out = splits.get(test or "test")
    names = getattr(splits["train"].features.get(label), "names", None)
    return Tables(_table(splits["train"]), held_out and _table(held_out), tuple(names) if names else None)


def strings(table: Any, name: str, where: str, *, empty: bool = False) -> list[str]:
    """Return a column of texts. If ``empty``, empty texts are allowed, and missing values become empty texts.

    Raises:
        DataError: there is no such column, it does not hold text, or texts are empty.
    """
    pa = optional("pyarrow", extra="hf", purpose="reading texts")

    values = column(table, name, where)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_null(values.type)):
        raise DataError(f"{where}: column {name!r} holds {values.type}, expected text: name another column")
    texts = [text or "" for text in values.to_pylist()]
    if not empty:
        refuse_empty(texts, name, where)
    return texts


def refuse_empty(texts: Sequence[str], name: str, where: str) -> None:
    """Check that no text is empty or only white space.

    Raises:
        DataError: some are; the message lists their rows.
    """
    if blank := [row for row, text in enumerate(texts) if not text.strip()]:
        raise DataError(
            f"{where}: {len(blank)} of {len(texts)} rows have an empty {name!r} (rows {listed(blank)}, from 0): "
            "drop them, or name another column"
        )


def column(table: Any, name: str, where: str) -> Any:
    """Return the column ``name`` of a table.

    Raises:
        DataError: there is no column of this name.
    """
    if name not in table.column_names:
        raise DataError(f"{where} has no column {name!r}{choices(name, table.column_names)}")
    return table[name]


def filled(table: Any, name: str, where: str) -> Any:
    """Return the column ``name``, which must have a value in every row.

    Raises:
        DataError: the column or some of its values are missing.
    """
    values = column(table, name, where)
    if values.null_count:
        raise DataError(f"{where}: {values.null_count} rows have no {name!r}: drop them, or name another column")
    return values


def is_nested(column: Any) -> bool:
    """Return whether a column holds nested values, such as lists."""
    pa = optional("pyarrow", extra="hf", purpose="reading texts")

    return bool(pa.types.is_nested(column.type))


def keys(table: Any, names: Sequence[str], where: str) -> dict[str, list[str]]:
    """Return the columns ``names`` as strings, for natural partitions.

    Raises:
        DataError: a column or some of its values are missing.
    """
    return {name: [str(value) for value in filled(table, name, where).to_pylist()] for name in names}


def _test_file(path: str) -> Path:
    if not Path(path).is_file():
        raise DataError(f"there is no test file {path}: check data.test, which must be a file if data.path is a file")
    return Path(path)


def _file(place: Path) -> Any:
    if place.suffix == PARQUET:
        return tables.read([place])
    if place.suffix not in LINES:
        raise DataError(f"{place} has an unknown file type: expected *{PARQUET} or *{', *'.join(LINES)}")
    pa = optional("pyarrow", extra="hf", purpose="reading texts")
    json = optional("pyarrow.json", extra="hf", purpose="reading texts")

    # The reader requires each line to fit into one block.
    block = json.ReadOptions(block_size=min(max(place.stat().st_size, 1), 2**31 - 1))
    try:
        table = json.read_json(place, read_options=block)
        table.validate(full=True)  # checks that texts are UTF-8
        return table
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{place} is not a JSON Lines file (one JSON object per line): {error}") from error


def _table(split: Any) -> Any:
    return split.with_format("arrow")[:]
