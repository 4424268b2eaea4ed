"""Where texts come from: a file of parquet or JSON lines, a folder, or a data set of the hub, as tables of columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedloru.data import tables
from fedloru.data.partition import listed
from fedloru.errors import DataError, choices

LINES, PARQUET = (".jsonl", ".ndjson", ".json"), ".parquet"


class Tables(NamedTuple):
    """The pyarrow tables to train and to test on; without ``test`` a part of ``train`` is held out."""

    train: Any
    test: Any = None
    classes: tuple[str, ...] | None = None


def read(path: str, test: str | None = None, subset: str | None = None, label: str | None = None) -> Tables:
    """Read a file and perhaps a second one, or the splits ``train`` and ``test`` (or another) of a data set.

    ``subset`` is one of several in a data set of the hub. The names of the classes in the column ``label`` come from
    the metadata, where there are any.

    Raises:
        DataError: something is missing, or cannot be read.
    """
    place = Path(path)
    if place.is_file():
        train = _file(place)
        return Tables(train, _file(_second(test)) if test else None, tables.class_names(train, place))
    if not place.is_dir() and (place.suffix in (PARQUET, *LINES) or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path)):
        raise DataError(f"there is no file or folder {path}; check data.path")
    found = tables.splits(path, subset)
    if test is not None and test not in found:
        raise DataError(f"the data set {path!r} has no split {test!r}{choices(test, found)}")
    held_out = found.get(test or "test")
    names = getattr(found["train"].features.get(label), "names", None)
    return Tables(_whole(found["train"]), held_out and _whole(held_out), tuple(names) if names else None)


def strings(table: Any, name: str, where: str, *, empty: bool = False) -> list[str]:
    """Return a column of texts; where ``empty``, some may be empty, and missing ones are.

    Raises:
        DataError: there is no such column, it holds something else, or texts are empty.
    """
    import pyarrow as pa

    found = column(table, name, where)
    if not (pa.types.is_string(found.type) or pa.types.is_large_string(found.type) or pa.types.is_null(found.type)):
        raise DataError(f"{where}: column {name!r} holds {found.type}, not text; name another column")
    texts = [text or "" for text in found.to_pylist()]
    if not empty:
        refuse_empty(texts, name, where)
    return texts


def refuse_empty(texts: Sequence[str], name: str, where: str) -> None:
    """Refuse texts of nothing but white space.

    Raises:
        DataError: there are some; it says where.
    """
    if blank := [row for row, text in enumerate(texts) if not text.strip()]:
        raise DataError(
            f"{where}: {len(blank)} of {len(texts)} rows have an empty {name!r} (rows {listed(blank)}, from 0); "
            "drop them, or name another column"
        )


def column(table: Any, name: str, where: str) -> Any:
    """Return a column as it is.

    Raises:
        DataError: there is none of this name.
    """
    if name not in table.column_names:
        raise DataError(f"{where} has no column {name!r}{choices(name, table.column_names)}")
    return table[name]


def filled(table: Any, name: str, where: str) -> Any:
    """Return the column ``name``, which has a value in every row.

    Raises:
        DataError: it is missing, or not whole.
    """
    found = column(table, name, where)
    if found.null_count:
        raise DataError(f"{where}: {found.null_count} rows have no {name!r}; drop them, or name another column")
    return found


def is_nested(column: Any) -> bool:
    """Say whether a column holds several values in a row."""
    import pyarrow as pa

    return bool(pa.types.is_nested(column.type))


def keys(table: Any, names: Sequence[str], where: str) -> dict[str, list[str]]:
    """Return the columns ``names`` as strings, for natural partitions.

    Raises:
        DataError: one is missing, or not whole.
    """
    return {name: [str(value) for value in filled(table, name, where).to_pylist()] for name in names}


def _second(path: str) -> Path:
    if not Path(path).is_file():
        raise DataError(f"there is no file {path} to test on; check data.test, which is a file where data.path is one")
    return Path(path)


def _file(place: Path) -> Any:
    if place.suffix == PARQUET:
        return tables.read([place])
    if place.suffix not in LINES:
        raise DataError(f"{place} is not a file of texts by its name: *{PARQUET} and *{', *'.join(LINES)} are read")
    import pyarrow as pa
    from pyarrow import json

    # A line must lie in one block of the reader.
    block = json.ReadOptions(block_size=min(max(place.stat().st_size, 1), 2**31 - 1))
    try:
        found = json.read_json(place, read_options=block)
        found.validate(full=True)  # texts are UTF-8
        return found
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{place} is not a file of JSON objects, one a line: {error}") from error


def _whole(split: Any) -> Any:
    return split.with_format("arrow")[:]
