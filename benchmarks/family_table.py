"""The results of families.py: one row per family, and their table in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import shorten
from typing import NamedTuple

CELL = 240
"""The longest text in a cell of the table."""


class Row(NamedTuple):
    """What became of one family: ``state`` is works, refused, failed or not built; ``remark`` says why."""

    kind: str
    task: str
    state: str
    engine: str = ""
    adapter: str = ""
    merged: str = ""
    remark: str = ""


def counts(rows: list[Row]) -> str:
    """Return how many families there are in each state."""
    states = ("works", "refused", "failed", "not built")
    return ", ".join(f"{sum(row.state == state for row in rows)} {state}" for state in states)


def table(rows: list[Row]) -> str:
    """Return the table of the families as Markdown."""
    return "\n".join(_lines(rows)) + "\n"


def _lines(rows: list[Row]) -> Iterator[str]:
    yield "| family | task | works | engine | adapter | merged | remarks |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _cell(text: str) -> str:
    """Return a text without what Markdown would interpret, and without the second half of a long explanation."""
    first = text.partition("; vmap")[0].replace("fold does not support this model", "not folded")
    return re.sub(r"([|<>*_])", r"\\\1", shorten(first, CELL, placeholder=" …"))
