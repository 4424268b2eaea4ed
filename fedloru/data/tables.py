"""Sources with named columns: parquet files, and data sets from the Hugging Face hub or in its layout.

Args:
    image: the column of encoded images.
    label: the column of labels.
    columns: further columns to keep, for natural partitions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedloru.data.images import decode
from fedloru.data.raw import Raw, Rows
from fedloru.errors import DataError, choices, optional
from fedloru.settings.types import Text, Texts


class Names(NamedTuple):
    """The columns of images and labels."""

    image: str
    label: str


def parquet(*, path: Text, image: Text = "image", label: Text = "label", columns: Texts = ()) -> Raw:
    """Read parquet files: a file, a folder, or the common prefix of ``NAME_train.parquet`` and ``NAME_test.parquet``.

    Class names are read from the JSON list ``classes`` in the metadata of the first file, if there is one.

    Args:
        path: the file, folder or prefix, relative to the working directory.

    Raises:
        DataError: a file or a column is missing, or a column has an unsupported type.
        MissingExtraError: pyarrow or pillow is not installed.
    """
    train, test = _files(Path(path))
    names = Names(image, label)
    tables = [read(files) for files in (train, test) if files]
    held_out = _rows(tables[1], names, (), test[0]) if test else None
    return Raw(_rows(tables[0], names, columns, train[0]), held_out, class_names(tables[0], train[0]))


def hub(*, path: Text, image: Text = "image", label: Text = "label", columns: Texts = ()) -> Raw:
    """Load a data set by its name on the Hugging Face hub, or from a local folder in the same layout.

    The splits ``train`` and, if it exists, ``test`` are used.

    Args:
        path: the name of the data set, or the folder, relative to the working directory.

    Raises:
        DataError: the data set cannot be loaded, or a split or column is missing.
        MissingExtraError: datasets, pyarrow or pillow is not installed.
    """
    found, names = splits(path), Names(image, label)
    train = _hub_rows(found["train"], names, columns, f"{path} (train)")
    test = _hub_rows(found["test"], names, (), f"{path} (test)") if "test" in found else None
    classes = getattr(found["train"].features[label], "names", None)
    return Raw(train, test, tuple(classes) if classes else None)


def splits(name: str, subset: str | None = None) -> Any:
    """Load all splits of a data set from the Hugging Face hub, or from a folder in its layout.

    Raises:
        DataError: the data set cannot be loaded, or has no split ``train``.
        MissingExtraError: datasets is not installed.
    """
    datasets = optional("datasets", extra="data", purpose="loading a data set of the Hugging Face hub")
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
    """Read parquet files with the same columns into one table.

    Raises:
        DataError: a file cannot be read, or the columns differ.
        MissingExtraError: pyarrow is not installed.
    """
    pa = optional("pyarrow", extra="data", purpose="reading parquet files")
    pq = optional("pyarrow.parquet", extra="data", purpose="reading parquet files")
    tables = []
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                tables.append(opened.read())
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{file} is not a readable parquet file: {error}") from error
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise DataError(f"{', '.join(map(str, files))} do not have the same columns: {error}") from error


def class_names(table: Any, where: Path) -> tuple[str, ...] | None:
    """Return the class names listed in the metadata of ``table``, or None if there are none.

    Raises:
        DataError: the metadata entry is not a JSON list.
    """
    metadata = (table.schema.metadata or {}).get(b"classes")
    if not metadata:
        return None
    try:
        names = json.loads(metadata)
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise DataError(f"{where}: the metadata entry 'classes' is not a JSON list of names; fix or remove it")
    return tuple(str(name) for name in names)


def _hub_rows(split: Any, names: Names, columns: Sequence[str], where: str) -> Rows:
    datasets = optional("datasets", extra="data", purpose="loading a data set of the Hugging Face hub")
    if isinstance(split.features.get(names.image), datasets.Image):
        split = split.cast_column(names.image, datasets.Image(decode=False))
    return _rows(split.with_format("arrow")[:], names, columns, where)


def _rows(table: Any, names: Names, columns: Sequence[str], where: Path | str) -> Rows:
    for name in (names.image, names.label, *columns):
        if name not in table.column_names:
            raise DataError(f"{where} has no column {name!r}{choices(name, table.column_names)}")
    for name in (names.image, names.label):
        if missing := table[name].null_count:
            raise DataError(f"{where}: {missing} rows have no value for {name!r}; drop them, or name another column")
    encoded = _encoded(table[names.image], names.image, where)
    x = decode(encoded, lambda row: f"{where}, row {row}")
    kept = {name: tuple(str(value) for value in table[name].to_pylist()) for name in columns}
    return Rows(x, np.array(table[names.label].to_pylist()), kept)


def _encoded(column: Any, name: str, where: Path | str) -> list[bytes]:
    pa = optional("pyarrow", extra="data", purpose="reading columns of images")
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        return [_bytes(value) for value in column.to_pylist()]
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return list(column.to_pylist())
    raise DataError(
        f"{where}: expected column {name!r} to hold encoded images (binary, or a struct with 'bytes'), "
        f"got {column.type}; name the image column with data.image"
    )


def _bytes(value: dict[str, Any]) -> bytes:
    data, path = value["bytes"], value.get("path")
    # A data set in the hub's layout may store paths instead of bytes.
    return Path(str(path)).read_bytes() if data is None and path else data or b""


def _files(place: Path) -> tuple[list[Path], list[Path]]:
    """Return the training files and the test files; the latter may be empty."""
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
            f"expected {place} to contain train*.parquet and test*.parquet, or a single data set, but it contains "
            f"{', '.join(file.name for file in found) or 'no parquet file'}; set data.path to one of the files, "
            f"or to {place / 'NAME'} for NAME_train.parquet and NAME_test.parquet"
        )
    return found, []
