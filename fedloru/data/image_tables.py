"""Sources of images in tables: parquet files, and data sets from the Hugging Face hub or in its layout.

Args:
    image: the column of encoded images.
    label: the column of labels.
    columns: further columns to keep, for natural partitions; also of the test examples, if these have them.
    size: the height and width to which images are resized, by an antialiased bilinear filter; images that are not
        square are stretched. By default, all images must have the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedloru.data import hub as hub_data
from fedloru.data.images import decode, same_channels
from fedloru.data.parquet_rows import check_classes, read
from fedloru.data.paths import Folders, unread_files
from fedloru.data.raw import Raw, Rows
from fedloru.data.table import Table
from fedloru.data.values import keys, kind, labels
from fedloru.errors import DataError
from fedloru.settings.types import Count, Text, Texts


class Names(NamedTuple):
    """The columns of images and labels, and the size to which images are resized."""

    image: str
    label: str
    size: int | None


def parquet(
    *, path: Text, image: Text = "image", label: Text = "label", columns: Texts = (), size: Count | None = None
) -> Raw:
    """Read parquet files: a file, a folder, or the common prefix of ``NAME_train.parquet`` and ``NAME_test.parquet``.

    Class names are read from the JSON list ``classes`` in the metadata of the first file, if there is one.

    Args:
        path: the file, folder or prefix, relative to the working directory.

    Raises:
        DataError: a file or a column is missing, or a column has an unsupported type.
        MissingExtraError: pyarrow or pillow is not installed.
    """
    place, names = Path(path), Names(image, label, size)
    train, test = _files(place)
    table, folders = read(train), Folders(train[0].parent)
    remarks: list[str] = []
    rows, held_out = _rows(table, names, columns, folders, remarks), None
    if test:
        other = read(test)
        check_classes(table.where, table.classes, other.where, other.classes)
        held_out = _rows(other, names, _known(columns, other), folders, remarks)
    used = {*train, *test, *folders.read_files}
    unread = unread_files(place, used, "neither train*.parquet nor test*.parquet") if place.is_dir() else ()
    return same_channels(Raw(rows, held_out, table.classes, (*remarks, *unread)))


def hub(
    *, path: Text, image: Text = "image", label: Text = "label", columns: Texts = (), size: Count | None = None
) -> Raw:
    """Load a data set by its name on the Hugging Face hub, or from a local folder in the same layout.

    The splits ``train`` and, if it exists, ``test`` are used.

    Args:
        path: the name of the data set, or the folder, relative to the working directory.

    Raises:
        DataError: the data set cannot be loaded, or a split or column is missing.
        MissingExtraError: datasets, pyarrow or pillow is not installed.
    """
    found, names, folders = hub_data.splits(path, label=label), Names(image, label, size), hub_data.folders(path)
    table = found.read("train")
    remarks: list[str] = []
    rows = _rows(table, names, columns, folders, remarks)
    held_out = found.read("test") if "test" in found.readers else None
    test = None if held_out is None else _rows(held_out, names, _known(columns, held_out), folders, remarks)
    remarks += found.unread(("train", "test"), folders.read_files)
    return same_channels(Raw(rows, test, table.classes, tuple(remarks)))


def _known(columns: Sequence[str], table: Table) -> list[str]:
    """Return those of ``columns`` that a table of test examples has."""
    return [name for name in columns if name in table.column_names]


def _rows(table: Table, names: Names, columns: Sequence[str], folders: Folders, remarks: list[str]) -> Rows:
    kept = {name: keys(table[name], name, table.where, table.place) for name in columns}
    y = labels(table[names.label], names.label, table.where, table.place, floats=True)
    encoded = [_encoded(value, names.image, folders, table.place(row)) for row, value in enumerate(table[names.image])]
    return Rows(decode(encoded, table.place, remarks, names.size), y, kept)


def _encoded(value: Any, name: str, folders: Folders, where: str) -> bytes:
    """Return an image as the bytes of its file. A data set in the hub's layout may store paths instead of bytes."""
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(data, bytes):
        return data
    if data is None and isinstance(path, str) and path:
        return folders.read(path, where)
    if data is None:
        raise DataError(f"{where} has no value for {name!r}: drop it, or name another column")
    raise DataError(
        f"{where}: expected column {name!r} to hold encoded images (binary, or a struct with 'bytes'), got "
        f"{kind(data)}; name the image column with data.image"
    )


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
