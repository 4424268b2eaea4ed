"""``Table``: rows with named columns, whose values keep the types that they have in the file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

from fedloru.data.memory import SPLIT, in_memory
from fedloru.errors import DataError, choices, counted, optional

Place = Callable[[int], str]
"""Names the file and the row of a value, given the number of its row."""


def rows_of(where: str) -> Place:
    """Return a ``Place`` for rows that are only known by their number."""
    return lambda row: f"{where}, row {row}"


class Table:
    """Rows with named columns.

    Args:
        columns: one sequence of Python values, or one pyarrow column, per name; a missing value is None.
        where: the file or data set, for messages.
        place: names a row in messages; by default by ``where`` and the number of the row.
        classes: the class names that the file lists.
        typed: whether values have types, such as in JSON and parquet; in CSV, all are text.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        where: str,
        place: Place | None = None,
        classes: tuple[str, ...] | None = None,
        *,
        typed: bool = True,
    ) -> None:
        self.where, self.classes, self.typed = where, classes, typed
        self.place: Place = place or rows_of(where)
        self._columns = dict(columns)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self._columns)

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self._columns.values()), ()))

    def __getitem__(self, name: str) -> list[Any]:
        """Return the values of a column, as Python objects.

        Raises:
            DataError: there is no such column, or its values are damaged.
        """
        if name not in self._columns:
            raise DataError(f"{self.where} has no column {name!r}{choices(name, self._columns)}")
        found = self._columns[name]
        if not isinstance(found, list):
            found = self._columns[name] = _python(found, name, self.where)
        return found

    def replaced(self, name: str, values: list[Any], classes: tuple[str, ...]) -> Table:
        """Return this table with other ``values`` in the column ``name``, which are among ``classes``."""
        return Table(self._columns | {name: values}, self.where, self.place, classes, typed=self.typed)

    def extended(self, name: str, values: list[Any]) -> Table:
        """Return this table with a further column, or with other values in one that it has."""
        return Table(self._columns | {name: values}, self.where, self.place, self.classes, typed=self.typed)


def from_rows(rows: Sequence[Mapping[str, Any]], where: str, place: Place) -> Table:
    """Return a table of ``rows``; a row that lacks a column has None there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return Table({name: [row.get(name) for row in rows] for name in names}, where, place)


def from_arrow(table: Any, where: str, place: Place | None = None, classes: tuple[str, ...] | None = None) -> Table:
    """Return a pyarrow table as a ``Table``.

    Raises:
        DataError: two columns have the same name.
    """
    check_names(table.column_names, where)
    return Table(dict(zip(table.column_names, table.columns, strict=True)), where, place, classes)


def joined(tables: Sequence[Table]) -> Table:
    """Return the rows of all ``tables``; a table that lacks a column of another has None there."""
    if len(tables) == 1:
        return tables[0]
    names = dict.fromkeys(name for table in tables for name in table.column_names)
    columns = {
        name: list(
            chain.from_iterable(
                table[name] if name in table.column_names else [None] * table.num_rows for table in tables
            )
        )
        for name in names
    }
    place = place_in([table.place for table in tables], [table.num_rows for table in tables])
    typed = all(table.typed for table in tables)
    where = f"{tables[0].where} (and {counted(len(tables) - 1, 'more file')})"
    return Table(columns, where, place, tables[0].classes, typed=typed)


def place_in(places: Sequence[Place], sizes: Sequence[int]) -> Place:
    """Return a ``Place`` for the rows of several tables, one after the other, given a ``Place`` and a size of each."""
    starts = list(accumulate(sizes, initial=0))[:-1]

    def place(row: int) -> str:
        at = bisect_right(starts, row) - 1
        return places[at](row - starts[at])

    return place


def check_names(names: Iterable[str], where: str) -> None:
    """Check that columns have different names.

    Raises:
        DataError: two have the same name.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{where} has two columns {name!r}: rename one of them")
        seen.add(name)


def _python(column: Any, name: str, where: str) -> list[Any]:
    pa = optional("pyarrow", extra="data", purpose="reading columns")
    try:
        with in_memory(where, SPLIT):
            if pa.types.is_time64(column.type):  # Python's times have no nanoseconds
                column = column.cast(pa.string())
            values: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:  # text that is not UTF-8, or dates out of range
        raise DataError(f"{where}: column {name!r} has values that cannot be read: {error}") from error
    return values
