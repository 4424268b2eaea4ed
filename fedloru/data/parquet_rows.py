"""Read rows from parquet files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedloru.data.memory import SPLIT, in_memory
from fedloru.data.paths import regular
from fedloru.data.table import Table, from_arrow, place_in, rows_of
from fedloru.errors import DataError, optional

MAX_ROWS, MAX_BYTES = 2**26, 2**35
"""The maximum numbers of rows, and of bytes before compression. A small file can hold more than fits into memory."""
INDEX = re.compile(r"__index_level_[0-9]+__")
"""The name that pandas gives to an index without one."""


def read(files: Sequence[Path]) -> Table:
    """Read parquet files with the same columns into one table.

    Raises:
        DataError: a file cannot be read, or the columns differ.
        MissingExtraError: pyarrow is not installed.
    """
    pa = optional("pyarrow", extra="data", purpose="reading parquet files")
    where = ", ".join(map(str, files))
    with in_memory(where, SPLIT):
        tables = [_file(file) for file in files]
        for file, table in zip(files, tables, strict=True):
            _check_alike(files[0], tables[0].schema, file, table.schema)
        whole = pa.concat_tables([table.replace_schema_metadata(tables[0].schema.metadata) for table in tables])
    name = where if len(files) == 1 else str(files[0].parent)
    classes = [class_names(table, file) for file, table in zip(files, tables, strict=True)]
    for file, other in zip(files, classes, strict=True):
        check_classes(str(files[0]), classes[0], str(file), other)
    place = place_in([rows_of(str(file)) for file in files], [table.num_rows for table in tables])
    return from_arrow(whole, name, place, classes[0])


def class_names(table: Any, where: Path | str) -> tuple[str, ...] | None:
    """Return the class names listed in the metadata of ``table``, or None if there are none.

    Raises:
        DataError: the metadata entry is not a JSON list.
    """
    metadata = (table.schema.metadata or {}).get(b"classes")
    if not metadata:
        return None
    try:
        names = json.loads(metadata)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, (str, int)) for name in names):
        raise DataError(f"{where}: the metadata entry 'classes' is not a JSON list of names; fix or remove it")
    return tuple(str(name) for name in names)


def without_index(table: Any) -> Any:
    """Return a pyarrow ``table`` without the indices of pandas that have no name: numbers of rows are no features."""
    return table.drop_columns([name for name in table.column_names if INDEX.fullmatch(name)])


def check_classes(first: str, names: tuple[str, ...] | None, file: str, other: tuple[str, ...] | None) -> None:
    """Check that two files list the same class names, if both list some.

    Raises:
        DataError: they differ.
    """
    if names is not None and other is not None and names != other:
        raise DataError(f"{first} and {file} list different class names, or in another order: write them alike")


def _file(file: Path) -> Any:
    """Return a file as a pyarrow table, with texts of one type: files may encode the same column differently."""
    pa = optional("pyarrow", extra="data", purpose="reading parquet files")
    pq = optional("pyarrow.parquet", extra="data", purpose="reading parquet files")
    try:
        with pq.ParquetFile(regular(file)) as opened:
            _check_size(file, opened.metadata)
            table = without_index(opened.read())
        for at, field in enumerate(table.schema):
            if (wanted := _decoded(field.type)) != field.type:
                table = table.set_column(at, pa.field(field.name, wanted), table.column(at).cast(wanted))
        return table
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # a name of a column may not be UTF-8
        raise DataError(f"{file} is not a readable parquet file: {_first_line(error)}") from error


def _check_size(file: Path, metadata: Any) -> None:
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    for count, most, what in ((metadata.num_rows, MAX_ROWS, "rows"), (size, MAX_BYTES, "bytes before compression")):
        if count > most:
            raise DataError(f"{file} has {count:,} {what}, but at most {most:,} are read: remove rows or columns")


def _check_alike(first: Path, schema: Any, file: Path, other: Any) -> None:
    """Check that two files have the same columns, of the same types."""
    if schema.names != other.names:
        names = ", ".join(sorted({*schema.names} ^ {*other.names})) or "their order"
        raise DataError(f"{first} and {file} do not have the same columns, but differ in {names}")
    for name, one, two in zip(schema.names, schema.types, other.types, strict=True):
        if one != two:
            raise DataError(f"column {name!r} holds {one} in {first}, but {two} in {file}: write it with one type")


def _decoded(kind: Any) -> Any:
    pa = optional("pyarrow", extra="data", purpose="reading parquet files")
    if pa.types.is_dictionary(kind):
        return _decoded(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary(kind) or pa.types.is_binary_view(kind):
        return pa.large_binary()
    return kind


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
