"""Data sets from the Hugging Face hub, or from folders in its layout.

JSON and CSV files are read by this package, because the library guesses the types of their values: dates and large
integers would change. All other files have types, and are read by the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fedloru.data import csv_rows, json_rows
from fedloru.data.paths import Folders, unread_files
from fedloru.data.raw import unread
from fedloru.data.table import Table, from_arrow, joined
from fedloru.errors import DataError, choices, optional

READERS: dict[str, Callable[..., Table]] = {"json": json_rows.read, "csv": csv_rows.read}
"""The readers of this package by the library's name of the format."""

NOT_FORMAT = frozenset({"name", "version", "data_dir", "data_files", "description", "sep", "delimiter"})
"""The fields of the library's configuration that the readers of this package support, or that do not affect reading."""

PURPOSE = "loading a data set of the Hugging Face hub"


class Splits(NamedTuple):
    """A data set: a function for each split that reads it, and all its files in a local folder."""

    name: str
    readers: Mapping[str, Callable[[], Table]]
    files: Sequence[Path]

    def read(self, split: str) -> Table:
        """Read a split.

        Raises:
            DataError: there is no such split, or it is damaged.
        """
        if split not in self.readers:
            raise DataError(f"the data set {self.name!r} has no split {split!r}{choices(split, self.readers)}")
        return self.readers[split]()

    def unread(self, used: Sequence[str], named: Iterable[Path] = ()) -> tuple[str, ...]:
        """Return remarks on the splits that are not among ``used``, and on the files of no split.

        ``named`` are the files that the data itself names.
        """
        remarks = unread([split for split in self.readers if split not in used], f"of {self.name}", "split")
        folder = Path(self.name)
        return remarks + unread_files(folder, [*self.files, *named], "part of no split") if folder.is_dir() else remarks


def splits(name: str, subset: str | None = None, label: str | None = None) -> Splits:
    """Find the splits of a data set on the Hugging Face hub, or in a folder in its layout.

    Args:
        name: the name of the data set, or the folder.
        subset: the configuration of the data set.
        label: the column of labels; the numbers of a column with class names become these names.

    Raises:
        DataError: the data set cannot be loaded, or has no split ``train``.
        MissingExtraError: datasets is not installed.
    """
    datasets = optional("datasets", extra="data", purpose=PURPOSE)
    try:
        builder = datasets.load_dataset_builder(name, subset)
        files = [file for split in (builder.config.data_files or {}).values() for file in split]
        if _is_read_here(builder, name):
            by_split = builder.config.data_files.items()
            found = {str(split): partial(_read, builder, list(each)) for split, each in by_split}
        else:
            builder.download_and_prepare()
            made = builder.as_dataset()
            found = {split: partial(_table, made[split], label, f"{name} ({split})") for split in made}
    except (OSError, ValueError, TypeError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"the data set {name!r} cannot be loaded: {error}. Check the name or folder, and the network"
        ) from error
    if "train" not in found:
        raise DataError(f"the data set {name!r} has no split 'train'{choices('train', found)}")
    return Splits(name, found, [Path(file) for file in files if "://" not in file])


def folders(name: str) -> Folders:
    """Return the folders that may hold the files that a data set names: its own, or those of downloads."""
    if Path(name).is_dir():
        return Folders(Path(name))
    datasets = optional("datasets", extra="data", purpose=PURPOSE)
    hub = optional("huggingface_hub.constants", extra="data", purpose=PURPOSE)
    return Folders(Path(hub.HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE))


def _is_read_here(builder: Any, name: str) -> bool:
    """Return whether the files are JSON or CSV, and the data set does not declare the types of its columns.

    Raises:
        DataError: the data set declares other settings for its CSV files than a separator.
    """
    form = _format(builder)
    if form not in READERS or builder.info.features is not None:
        return False
    config, usual = builder.config, type(builder.config)()
    changed = {field.name for field in fields(config) if getattr(config, field.name) != getattr(usual, field.name)}
    changed -= NOT_FORMAT
    if changed and form == "csv":
        raise DataError(
            f"the data set {name!r} sets {', '.join(sorted(changed))} for its CSV files, but only their separator can "
            "be set: convert them to parquet"
        )
    return not changed


def _format(builder: Any) -> str:
    return str(builder.__class__.__module__).rpartition(".")[2]


def _read(builder: Any, files: Sequence[str]) -> Table:
    datasets = optional("datasets", extra="data", purpose=PURPOSE)
    form = _format(builder)
    more = {"separator": builder.config.delimiter or builder.config.sep} if form == "csv" else {}
    places = datasets.DownloadManager().download_and_extract(list(files))
    return joined([READERS[form](Path(place), name=file, **more) for place, file in zip(places, files, strict=True)])


def _table(split: Any, label: str | None, where: str) -> Table:
    """Return a split as a table; images stay encoded, and the numbers of classes become their names."""
    datasets = optional("datasets", extra="data", purpose=PURPOSE)
    for name, feature in split.features.items():
        if isinstance(feature, datasets.Image):
            split = split.cast_column(name, datasets.Image(decode=False))
    table = from_arrow(split.with_format("arrow")[:], where)
    names = getattr(split.features.get(label), "names", None)
    if label is None or names is None:
        return table
    named = [None if number is None or number < 0 else names[number] for number in table[label]]
    return table.replaced(label, named, tuple(names))
