"""Rows of named values, declared once: a table for the terminal, and JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fedloru.report import units

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]
"""A row as JSON holds it; values without a column are only in the JSON."""


class Column(NamedTuple):
    """A value of every row: its key in JSON, its title in the table, and how the table shows it.

    ``wraps`` says whether its texts may be broken into lines, and ``missing`` is shown for None.
    """

    key: str
    title: str
    show: Callable[[Any], str] = str
    right: bool = False
    wraps: bool = True
    missing: str = units.DASH


@dataclass(frozen=True)
class Listing:
    """Rows under columns; the last ``totals`` rows sum up the others. A ``compact`` table has no lines."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    title: str | None = None
    caption: str | None = None
    totals: int = 0
    compact: bool = False

    def table(self) -> Table:
        """Return the rows as a table for the terminal."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=None if self.compact else box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0) if self.compact else (0, 0, 0, 1),
            title=self.title,
            caption=self.caption,
            caption_justify="left",
        )
        for column in self.columns:
            table.add_column(column.title, justify="right" if column.right else "left", no_wrap=not column.wraps)
        first = len(self.rows) - self.totals
        for number, row in enumerate(self.rows):
            if self.totals and number == first:
                table.add_section()
            style = "bold" if self.totals and number == first else None
            table.add_row(*map(Text, self._cells(row)), style=style)
        return table

    def texts(self) -> tuple[list[str], list[list[str]]]:
        """Return the titles, and the rows as the table shows them."""
        return [column.title for column in self.columns], [self._cells(row) for row in self.rows]

    def json(self) -> list[Row]:
        """Return the rows with all their values."""
        return list(self.rows)

    def _cells(self, row: Row) -> list[str]:
        return [_shown(column, row) for column in self.columns]


def facts(columns: Iterable[Column], record: Row) -> Table:
    """Return the values of one record as a table with a line for each; values that it lacks have none."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 3, 0, 0))
    for column in columns:
        if record.get(column.key) is not None:
            table.add_row(Text(column.title, style="dim"), Text(column.show(record[column.key])))
    return table


def _shown(column: Column, row: Row) -> str:
    value = row.get(column.key)
    return column.missing if value is None else column.show(value)
