"""Read columns as texts, keys of clients, or labels; one rule for all sources.

Values keep their types or are refused, and a missing value is never a key. An integer and the text of its digits are
different values, so a column must not have both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray

from fedloru.data.table import Place, rows_of
from fedloru.errors import DataError, listed, quoted

NUMBERS = (int, float, Decimal, type(None))
"""The types of a column of floating-point numbers, with those of missing values."""

LONGEST_LABEL = 1000
"""The maximum number of characters of a label. Longer ones are texts, and arrays of them would fill the memory."""

KINDS: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "float"),
    (str, "text"),
    (bytes, "bytes"),
    (Decimal, "decimal"),
    (date, "date"),
    (list, "list"),
    (dict, "object"),
    (type(None), "null"),
)


def kind(value: Any) -> str:
    """Return the type of ``value``, for messages."""
    return next((name for of, name in KINDS if isinstance(value, of)), type(value).__name__)


def plain(values: Iterable[Any]) -> list[Any]:
    """Return ``values`` as Python objects; what stands for a missing value in NumPy and pandas becomes None."""
    return [_plain(value) for value in values]


def keys(values: Iterable[Any], name: str, where: str, place: Place | None = None) -> tuple[str, ...]:
    """Return the column ``name`` as keys of clients: text as it is, and integers and dates as text.

    Args:
        values: the values of the column.
        name: its name.
        where: the file or data set, for messages.
        place: names a row in messages; by default by ``where`` and its number.

    Raises:
        DataError: values are missing or empty, have different types, or are not exact, such as floating-point numbers.
    """
    place, values = place or rows_of(where), tuple(values)
    if all(type(value) is str and value.isascii() and value.strip() for value in values):
        return values  # the checks below take 2 µs for each of perhaps millions of rows
    found = _complete(values, name, where, place)
    return tuple(_key(value, name, place, row) for row, value in enumerate(found))


def labels(
    values: Iterable[Any], name: str, where: str, place: Place | None = None, *, floats: bool = False
) -> NDArray[Any]:
    """Return the column ``name`` as labels (N,): integers, text or, with ``floats``, floating-point numbers.

    Args:
        values: the values of the column.
        name: its name.
        where: the file or data set, for messages.
        place: names a row in messages; by default by ``where`` and its number.
        floats: whether labels may be floating-point numbers, which may then be mixed with integers.

    Raises:
        DataError: values are missing or empty, have different types, or a type that labels do not have.
    """
    place = place or rows_of(where)
    found = plain(values)
    if floats and {float, Decimal} & {*map(type, found)} and all(type(each) in NUMBERS for each in found):
        found = [each if each is None else float(each) for each in found]
    found = _complete(found, name, where, place)
    if floats and found and isinstance(found[0], float):
        return np.array(found)
    if found and not isinstance(found[0], (int, str)):
        raise DataError(
            f"{where}: labels must be integers or strings, got {kind(found[0])} in column {name!r}: convert it, or "
            "name another column"
        )
    for row, value in enumerate(found):
        if isinstance(value, str) and (problem := _label_problem(value)):
            raise DataError(f"{place(row)}: the label in column {name!r} has {problem}: name the column of labels")
    made = np.array(found)
    if found and made.dtype.kind not in "iubU":  # integers of more than 64 bits
        raise DataError(f"{where}: column {name!r} has integer labels of more than 64 bits: write them as text")
    return made


def texts(values: Sequence[Any], name: str, where: str, place: Place | None = None) -> list[str]:
    """Return the column ``name`` as texts; a missing value becomes an empty text.

    Raises:
        DataError: a value is not text.
    """
    place = place or rows_of(where)
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"{place(row)}: column {name!r} holds {kind(value)}, expected text: convert it, or name another column"
            )
    return [value or "" for value in values]


def is_missing(value: Any) -> bool:
    """Return whether a key or label is missing: None, NaN, or a text that is empty or only white space."""
    return value is None or (value != value) is True or (isinstance(value, (str, bytes)) and not value.strip())


def _complete(values: Iterable[Any], name: str, where: str, place: Place) -> list[Any]:
    """Return ``values`` as Python objects, if none is missing and all have one type."""
    found = plain(values)
    _check_present(found, name, where, place)
    _check_one_type(found, name, place)
    return found


def _check_present(values: Sequence[Any], name: str, where: str, place: Place) -> None:
    if missing := [row for row, value in enumerate(values) if is_missing(value)]:
        raise DataError(
            f"{where}: {len(missing)} of {len(values)} rows have no {name!r} (rows {listed(missing)}, from 0), "
            f"first {place(missing[0])}: drop them, or name another column"
        )


def _check_one_type(values: Sequence[Any], name: str, place: Place) -> None:
    first = values[0] if values else None
    for row, value in enumerate(values):
        if type(value) is not type(first):
            raise DataError(
                f"column {name!r} mixes types: {place(0)} has {quoted(first)} ({kind(first)}), but {place(row)} has "
                f"{quoted(value)} ({kind(value)}): write all its values as one type"
            )


def _key(value: Any, name: str, place: Place, row: int) -> str:
    problem = f"is of type {kind(value)}"
    match value:
        case str():
            if _is_text(value):
                return value
            problem = "is not valid Unicode"
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                problem = "has bytes that are not UTF-8 text"
        case Decimal() if value.is_finite():
            return f"{value:f}"
        case int() | date() | time() | timedelta() | UUID():
            return str(value)
    raise DataError(
        f"{place(row)}: the key {quoted(value)} in column {name!r} {problem}, but keys are text or integers: convert "
        "the column, or name another"
    )


def _label_problem(value: str) -> str | None:
    if len(value) > LONGEST_LABEL:
        return f"{len(value):,} characters"
    return "a NUL character" if "\0" in value else None if _is_text(value) else "invalid Unicode"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, (np.datetime64, np.timedelta64)):  # their items are numbers if the unit is nanoseconds
        return None if np.isnat(value) else str(value)
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.ndim == 0):
        return value.item()
    return None if type(value).__name__ in ("NAType", "NaTType") else value
