"""Read rows from files of comma- or tab-separated values. Every value is text, as it is written."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedloru.data.lines import MAX_LINE, lines
from fedloru.data.memory import SPLIT, in_memory
from fedloru.data.table import Table, check_names
from fedloru.errors import DataError

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


def read(file: Path, separator: str = ",", name: str | None = None) -> Table:
    """Read a file whose first line names the columns; ``name`` is its name in messages.

    Raises:
        DataError: the file is not UTF-8 text, has no or repeated names, or a row has too many or too few values.
    """
    name = name or str(file)
    with in_memory(name, SPLIT):
        rows = _rows(file, separator, name)
        _, names = next(rows, (0, []))
        _check_header(names, separator, name)
        columns: list[list[str]] = [[] for _ in names]
        numbers: list[int] = []
        for number, values in rows:
            if len(values) != len(names):
                raise DataError(
                    f"{name}, row {len(numbers)} (line {number}) has {len(values)} values, but the first line names "
                    f"{len(names)} columns: correct the row, and quote values that contain a separator or a line break"
                )
            numbers.append(number)
            for column, value in zip(columns, values, strict=True):
                column.append(value)
    place = lambda row: f"{name}, row {row} (line {numbers[row]})"  # noqa: E731
    return Table(dict(zip(names, columns, strict=True)), name, place, typed=False)


def _rows(file: Path, separator: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line in which each row ends, from 1, and its values; empty lines are skipped."""
    number = 0

    def counted() -> Iterator[str]:
        nonlocal number
        for number, line in lines(file, name):  # noqa: B007
            yield line

    with _large_fields():
        reader = csv.reader(counted(), delimiter=separator, strict=True)
        try:
            for values in reader:
                if values:
                    yield number, values
        except csv.Error as error:
            raise DataError(
                f"{name}, line {number} is not a row of values ({error}): correct its quotes or line ends"
            ) from error


@contextmanager
def _large_fields() -> Iterator[None]:
    """Read values of up to ``MAX_LINE`` characters instead of 131,072; the limit is one for the whole process."""
    before = csv.field_size_limit(MAX_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_header(names: list[str], separator: str, name: str) -> None:
    if not names:
        raise DataError(f"{name} is empty: expected a first line with the names of the columns")
    other = next((each for each in SEPARATORS if each != separator and each in names[0]), None)
    if len(names) == 1 and other:
        raise DataError(
            f"{name} is separated by {SEPARATORS[other]}, expected {SEPARATORS[separator]}: convert it (a file of "
            "commas is *.csv, one of tabs is *.tsv)"
        )
    check_names(names, name)
