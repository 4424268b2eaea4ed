"""Sources with named columns: parquet files, and data sets of the Hugging Face hub or in its layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedloru.data.images import decode
from fedloru.data.raw import Query, Raw, Rows
from fedloru.errors import DataError, choices


def parquet(query: Query) -> Raw:
    """Read parquet files: a file, a folder, or the common start of ``NAME_train.parquet`` and ``NAME_test.parquet``.

    Class names come from the JSON list under ``classes`` in the first file's metadata, where there is one.

    Raises:
        DataError: a file or a column that is missing, or a column of another kind.
    """
    train, test = _files(query.place)
    tables = [read(files) for files in (train, test) if files]
    held_out = _rows(tables[1], query, (), test[0]) if test else None
    return Raw(_rows(tables[0], query, query.columns, train[0]), held_out, class_names(tables[0], train[0]))


def hub(query: Query) -> Raw:
    """Load a data set by its name on the Hugging Face hub, or from a local folder in the same layout.

    Its splits ``train`` and, if there is one, ``test`` are used.

    Raises:
        DataError: it cannot be reached or read, or a split or column is missing.
    """
    found = splits(query.name)
    train = _hub_rows(found["train"], query, query.columns, "train")
    test = _hub_rows(found["test"], query, (), "test") if "test" in found else None
    names = getattr(found["train"].features[query.label], "names", None)
    return Raw(train, test, tuple(names) if names else None)


def splits(name: str, subset: str | None = None) -> Any:
    """Load all splits of a data set of the Hugging Face hub, or of a folder in its layout.

    Raises:
        DataError: it cannot be reached or read, or has no split ``train``.
    """
    import datasets

    try:
        found = datasets.load_dataset(name, subset)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"the data set {name!r} cannot be loaded: {error}. Check the name or folder, and the network"
        ) from error
    if "train" not in found:
        raise DataError(f"the data set {name!r} has no split 'train'{choices('train', found)}")
    return found


def read(files: Sequence[Path]) -> Any:
    """Read parquet files of the same columns as one table.

    Raises:
        DataError: one cannot be read, or has other columns.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    tables = []
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                tables.append(opened.read())
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{file} is not a parquet file that can be read: {error}") from error
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise DataError(f"{', '.join(map(str, files))} do not have the same columns: {error}") from error


def class_names(table: Any, where: Path) -> tuple[str, ...] | None:
    """Return the names of the classes that the metadata of ``table`` lists, if any.

    Raises:
        DataError: what is there is no JSON list.
    """
    metadata = (table.schema.metadata or {}).get(b"classes")
    if not metadata:
        return None
    try:
        names = json.loads(metadata)
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise DataError(f"{where}: its metadata 'classes' is not a JSON list of names; mend or remove it")
    return tuple(str(name) for name in names)


def _hub_rows(split: Any, query: Query, columns: Sequence[str], name: str) -> Rows:
    import datasets

    if isinstance(split.features.get(query.image), datasets.Image):
        split = split.cast_column(query.image, datasets.Image(decode=False))
    return _rows(split.with_format("arrow")[:], query, columns, f"{query.name} ({name})")


def _rows(table: Any, query: Query, columns: Sequence[str], where: Path | str) -> Rows:
    for name in (query.image, query.label, *columns):
        if name not in table.column_names:
            raise DataError(f"{where} has no column {name!r}{choices(name, table.column_names)}")
    for name in (query.image, query.label):
        if empty := table[name].null_count:
            raise DataError(f"{where}: {empty} rows have no {name!r}; drop them, or name another column")
    encoded = _encoded(table[query.image], query.image, where)
    x = decode(encoded, lambda row: f"{where}, row {row}")
    kept = {name: tuple(str(value) for value in table[name].to_pylist()) for name in columns}
    return Rows(x, np.array(table[query.label].to_pylist()), kept)


def _encoded(column: Any, name: str, where: Path | str) -> list[bytes]:
    import pyarrow as pa

    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        return [_bytes(value) for value in column.to_pylist()]
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return list(column.to_pylist())
    raise DataError(
        f"{where}: column {name!r} holds {column.type}, not encoded images (binary, or a struct with 'bytes'); "
        "name the image column with data.image"
    )


def _bytes(value: dict[str, Any]) -> bytes:
    data, path = value["bytes"], value.get("path")
    # A data set in the hub's layout may refer to files in place of holding their bytes.
    return Path(str(path)).read_bytes() if data is None and path else data or b""


def _files(place: Path) -> tuple[list[Path], list[Path]]:
    """Return the files to train on and, perhaps none, to test on."""
    if place.is_file():
        return [place], []
    if not place.is_dir():
        pair = [place.with_name(f"{place.name}_{part}.parquet") for part in ("train", "test")]
        if not pair[0].is_file():
            raise DataError(f"there is no file or folder {place}, and no {pair[0]}; check data.path")
        return pair[:1], [file for file in pair[1:] if file.is_file()]
    train, test = (sorted(place.glob(f"{part}*.parquet")) for part in ("train", "test"))
    if train:
        return train, test
    train, test = (sorted(place.glob(f"*_{part}.parquet")) for part in ("train", "test"))
    if len(train) == 1 and len(test) <= 1:
        return train, test
    found = sorted(place.glob("*.parquet"))
    if len(found) != 1:
        raise DataError(
            f"{place} should hold train*.parquet and test*.parquet, or one data set, but holds "
            f"{', '.join(file.name for file in found) or 'no parquet file'}; "
            f"name one of them: a file, or {place / 'NAME'} for NAME_train.parquet and NAME_test.parquet"
        )
    return found, []
