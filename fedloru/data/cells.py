"""Read the columns of a table as numbers, or as categories. Anything that could be either is refused with its row.

In files without types, such as CSV, a text that is a number, such as ``-1.5e3``, is one. Elsewhere text is text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloru.data.table import Table
from fedloru.data.values import is_missing, kind, plain
from fedloru.errors import DataError, quoted

Numbers = NDArray[np.float64]
Categories = list[str | None]

NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""A number as programs write it; leading zeros make a code of it, such as a postal code."""
LIKE_NUMBER = re.compile(r"(?=.*\d)[\s\d+\-.,'_()%€$£¥]+|[+-]?inf(inity)?", re.IGNORECASE)
"""A number that other programs would read as something else: 1,234 or 12.345,6 or 007 or 50%."""
LIKE_DATE = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}(?:[T ].*)?|\d{1,2}([./-])\d{1,2}\1\d{2,4}(?: .*)?|\d{1,2}:\d\d(?::\d\d.*)?"
)

LARGEST = float(np.finfo(np.float32).max)

ADVICE = (
    "write numbers as 1234.5, without separators or units; data.na lists texts that stand for missing values, and "
    "data.categorical columns of categories"
)
DATE_ADVICE = "convert it, such as to days since a date, or leave the column out with data.features"


def is_numeric(table: Table, name: str, na: Collection[str]) -> bool:
    """Return whether the column ``name`` has numbers, and not categories; ``na`` are texts for missing values.

    Raises:
        DataError: it has both, or dates, or something else; or its categories look like numbers.
    """
    found = _values(table, name, na)
    known = [(row, value) for row, value in enumerate(found) if value is not None]
    texts = [(row, value) for row, value in known if isinstance(value, str)]
    if not texts:
        numbers(table, name, na)
        return True
    if len(texts) < len(known):
        categories(table, name, na)  # names both types
    if table.typed:
        _check_not_numbers(table, name, texts, NUMBER, "text that is a number")
    elif any(_is_number(value) for _, value in texts):
        numbers(table, name, na)
        return True
    _check_not_numbers(table, name, texts, LIKE_DATE, "a date or time", DATE_ADVICE)
    _check_not_numbers(table, name, texts, LIKE_NUMBER, "not a number as programs write it")
    return False


def numbers(table: Table, name: str, na: Collection[str] = ()) -> Numbers:
    """Return the column ``name`` as numbers (N,); missing values are NaN, and booleans 0 and 1.

    Raises:
        DataError: a value is not a finite number.
    """
    found = _values(table, name, na)
    made = np.full(len(found), np.nan)
    for row, value in enumerate(found):
        if value is not None:
            made[row] = _number(value, table, name, row)
    if len(wrong := (np.abs(made) > LARGEST).nonzero()[0]):
        raise DataError(
            f"{table.place(int(wrong[0]))}: column {name!r} has an infinite or too large number: correct it"
        )
    return made


def categories(table: Table, name: str, na: Collection[str] = ()) -> Categories:
    """Return the column ``name`` as texts; missing values are None. Integers and booleans become text.

    Raises:
        DataError: the values have different types, or are neither text, integers nor booleans.
    """
    found = _values(table, name, na)
    first = next(((row, value) for row, value in enumerate(found) if value is not None), (0, None))
    for row, value in enumerate(found):
        if value is not None and isinstance(value, str) != isinstance(first[1], str):
            raise DataError(
                f"column {name!r} mixes types: {table.place(first[0])} has {quoted(first[1])} ({kind(first[1])}), but "
                f"{table.place(row)} has {quoted(value)} ({kind(value)}): write all its values as one type"
            )
    return [None if value is None else _category(value, table, name, row) for row, value in enumerate(found)]


def _values(table: Table, name: str, na: Collection[str]) -> list[Any]:
    """Return the column ``name`` as Python objects, with None for missing values."""
    found = plain(table[name])
    return [None if is_missing(value) or (isinstance(value, str) and value in na) else value for value in found]


def _number(value: Any, table: Table, name: str, row: int) -> float:
    problem, advice = f"{quoted(value)} ({kind(value)})", "convert it, or leave the column out with data.features"
    if isinstance(value, str) and not table.typed:
        if _is_number(value):
            return float(value)
        is_date = LIKE_DATE.fullmatch(value.strip())
        what, advice = ("looks like a date or time", DATE_ADVICE) if is_date else ("is not a number", ADVICE)
        raise DataError(f"{table.place(row)}: column {name!r} has numbers, but {quoted(value)} {what}: {advice}")
    if isinstance(value, (bool, int, float, Decimal)):
        try:
            return float(value)
        except (OverflowError, ValueError):
            problem = "a number that is too large"
    if isinstance(value, (date, time, timedelta)):
        advice = DATE_ADVICE
    raise DataError(f"{table.place(row)}: column {name!r} has {problem}, expected a number: {advice}")


def _category(value: Any, table: Table, name: str, row: int) -> str:
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float() if value.is_integer() and abs(value) < 2**53:
            return str(int(value))  # integers are stored as floats where other rows lack a value
    raise DataError(
        f"{table.place(row)}: column {name!r} has {quoted(value)} ({kind(value)}), expected text or an integer as a "
        "category: convert it, or leave it out with data.features"
    )


def _check_not_numbers(
    table: Table, name: str, texts: Sequence[tuple[int, str]], pattern: re.Pattern[str], what: str, advice: str = ADVICE
) -> None:
    for row, value in texts:
        if pattern.fullmatch(value.strip()):
            raise DataError(f"{table.place(row)}: {quoted(value)} in column {name!r} is {what}: {advice}")


def _is_number(value: str) -> bool:
    return NUMBER.fullmatch(value.strip(" ")) is not None
