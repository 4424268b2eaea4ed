"""Read a file of rows by its ending: parquet, JSON, JSON Lines, or comma- or tab-separated values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from fedloru.data import csv_rows, json_rows
from fedloru.data.parquet_rows import read as read_parquet
from fedloru.data.table import Table
from fedloru.errors import DataError

READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": lambda file: read_parquet([file]),
    ".jsonl": json_rows.read,
    ".ndjson": json_rows.read,
    ".json": json_rows.read,
    ".csv": csv_rows.read,
    ".tsv": partial(csv_rows.read, separator="\t"),
}
"""The readers by the ending of the file, in lower case."""


def read(file: Path) -> Table:
    """Read a file of rows.

    Raises:
        DataError: the ending is unknown, or the file is damaged; the message names the row.
    """
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        hint = "decompress it first" if file.suffix.lower() in (".gz", ".zip", ".zst", ".bz2", ".xz") else "convert it"
        raise DataError(f"{file} has an unknown file type: expected *{', *'.join(READERS)}; {hint}")
    return reader(file)
