"""Read rows from JSON: one object per line, one array of objects, or objects one after the other.

Values keep their types: integers of any size are exact, and a text that looks like a date or a number is text. What
JSON does not define, such as NaN, numbers beyond the range of floats and repeated keys, is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from fedloru.data.lines import lines, whole
from fedloru.data.memory import SPLIT, in_memory
from fedloru.data.table import Table, from_rows
from fedloru.data.values import kind
from fedloru.errors import DataError, quoted

MAX_DIGITS = 1000
"""The maximum number of digits of an integer. Python needs quadratic time for them, and refuses more than 4300."""

SPACE = re.compile(r"[ \t\n\r]*")
SPEAKERS = frozenset({"role", "from"})
"""Keys of the objects of a conversation, which is a column and not a list of rows."""

Row = dict[str, Any]


class _Rows(NamedTuple):
    """Rows, and the line in which each starts."""

    rows: list[Row]
    lines: list[int]


def read(file: Path, name: str | None = None) -> Table:
    """Read a JSON or JSON Lines file; ``name`` is its name in messages.

    Raises:
        DataError: the file is not UTF-8 text, not JSON, or does not hold objects; the message names the row.
    """
    name = name or str(file)
    with in_memory(name, SPLIT):
        found = _by_lines(file, name) or _as_a_whole(file, name)
        _check_not_wrapped(found, name)
        return from_rows(found.rows, name, lambda row: f"{name}, row {row} (line {found.lines[row]})")


def _by_lines(file: Path, name: str) -> _Rows | None:
    """Return the rows of a file with one object per line; None if its first line is not an object."""
    found = ((number, line) for number, line in lines(file, name) if not line.isspace())
    first = next(found, None)
    if first is None:
        return _Rows([], [])
    if not _is_object(first[1]):
        return None
    rows: list[Row] = []
    numbers = []
    for number, line in chain([first], found):
        rows.append(_object(line.rstrip(), f"{name}, row {len(rows)} (line {number})"))
        numbers.append(number)
    return _Rows(rows, numbers)


def _is_object(line: str) -> bool:
    """Return whether ``line`` is one JSON object, or cannot be a part of a longer one."""
    if not line.lstrip().startswith("{"):
        return False
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):
        pass  # reading the row says what is wrong
    return True


def _object(text: str, where: str) -> Row:
    value, end = _value(text, 0, where)
    if rest := text[end:].strip():
        raise DataError(f"{where} is not valid JSON: {quoted(rest, 40)} follows the object; write one object per line")
    return _row(value, where)


def _as_a_whole(file: Path, name: str) -> _Rows:
    text = whole(file, name)
    rows: list[Row] = []
    numbers, line, at = [], 1, 0
    for start, value in _values(text, name):
        line, at = line + text.count("\n", at, start), start
        rows.append(_row(value, f"{name}, row {len(rows)} (line {line})"))
        numbers.append(line)
    return _Rows(rows, numbers)


def _values(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """Yield the start and the value of each element of an array, or of each value of a sequence."""
    at, row = _skip(text, 0), 0
    array = text.startswith("[", at)
    at = _skip(text, at + array)
    while at < len(text) and not (array and text[at] == "]"):
        where = f"{name}, row {row}"
        value, end = _value(text, at, where)
        yield at, value
        at, row = _skip(text, end), row + 1
        if array and at < len(text) and text[at] != "]":
            at = _next(text, at, where)
    if array and at == len(text):
        raise _invalid(name, text, at, "expected ']' after the last row")
    if array and (end := _skip(text, at + 1)) < len(text):
        raise _invalid(name, text, end, "expected nothing after the array")


def _next(text: str, at: int, where: str) -> int:
    """Return where the next element of an array starts, after the comma at ``at``."""
    if text[at] != ",":
        raise _invalid(where, text, at, "expected ',' or ']' after the row")
    start = _skip(text, at + 1)
    if text.startswith("]", start):
        raise _invalid(where, text, start, "expected a row after ','")
    return start


def _value(text: str, at: int, where: str) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, _skip(text, at))
        if "\\u" in text[at:end]:
            json.dumps(value, ensure_ascii=False).encode()
        return value, end
    except json.JSONDecodeError as error:
        raise _invalid(where, text, error.pos, error.msg) from error
    except UnicodeEncodeError as error:
        raise DataError(f"{where} has half of a surrogate pair, which is not valid Unicode: remove it") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deeply: flatten it") from error
    except ValueError as error:
        raise DataError(f"{where} {error}") from error


def _invalid(where: str, text: str, at: int, problem: str) -> DataError:
    line = text.count("\n", 0, at) + 1
    place = f"{where} (line {line})" if "\n" in text else where
    found = repr(text[at : at + 20]) if at < len(text) else "the end"
    return DataError(
        f"{place} is not valid JSON: {problem[0].lower()}{problem[1:].removesuffix(' at')}, got {found}. Expected one "
        "object per line, or one array of objects"
    )


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where} is of type {kind(value)}, expected an object with a key for each column")
    return value


def _check_not_wrapped(found: _Rows, name: str) -> None:
    """Check that the file is not one object that has the rows in one of its values."""
    if len(found.rows) != 1:
        return
    for key, value in found.rows[0].items():
        objects = isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
        if objects and SPEAKERS.isdisjoint(value[0]):
            raise DataError(
                f"{name} has one object, with {len(value)} objects in {key!r}: write these alone, as an array, or one "
                "object per line"
            )


def _pairs(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key {quoted(twice)} twice: remove one")
    return row


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"has an integer of {len(digits):,} digits: write it as text")
    return int(digits)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"has the number {text[:40]}, which is too large: write it as text")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"has {name}, which is not valid JSON: write null, or remove it")


def _skip(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant)
