"""Fuzz the readers of rows: what was written is read, and damaged files are read or refused, never anything else."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloru.data import files
from fedloru.data.values import keys, labels, texts
from fedloru.errors import DataError

FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LONG = settings(FAST, max_examples=3000)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.lists(st.text("abcXYZ_é0", min_size=1, max_size=5), min_size=1, max_size=4, unique=True)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
COLUMNS = st.sampled_from(
    [
        (st.integers(-(2**63), 2**63 - 1), pa.int64()),
        (st.integers(0, 2**64 - 1), pa.uint64()),
        (TEXT, pa.string()),
        (TEXT, pa.large_string()),
        (TEXT, pa.dictionary(pa.int32(), pa.string())),
        (st.binary(max_size=9), pa.binary()),
        (st.booleans(), pa.bool_()),
        (st.floats(allow_nan=False), pa.float64()),
        (st.decimals(-(10**20), 10**20, places=2), pa.decimal128(30, 2)),
        (st.datetimes(), pa.timestamp("us")),
        (st.lists(TEXT, max_size=3), pa.list_(pa.string())),
    ]
)


@st.composite
def json_files(draw: st.DrawFn) -> tuple[str, bytes, list[dict[str, Any]]]:
    names = draw(NAMES)
    rows = draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, VALUES)), min_size=2, max_size=5))
    ascii_only, form = draw(st.booleans()), draw(st.sampled_from(["lines", "array", "pretty", "sequence"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]))
    if form in ("array", "pretty"):
        text = json.dumps(rows, ensure_ascii=ascii_only, indent=2 if form == "pretty" else None) + end
    else:
        indent = 1 if form == "sequence" else None
        text = end.join(json.dumps(row, ensure_ascii=ascii_only, indent=indent) for row in rows)
    return (
        draw(st.sampled_from([".json", ".jsonl"])),
        draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode(),
        rows,
    )


@st.composite
def csv_files(draw: st.DrawFn) -> tuple[str, bytes, list[dict[str, Any]]]:
    names = draw(NAMES)
    rows = draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, TEXT)), max_size=5))
    suffix, delimiter = draw(st.sampled_from([(".csv", ","), (".tsv", "\t")]))
    out = io.StringIO()
    # Before Python 3.13, csv.writer quotes carriage returns only if lines end with them.
    end, quoting = draw(st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]))
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([names, *([row[name] for name in names] for row in rows)])
    return suffix, draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + out.getvalue().encode(), rows


@st.composite
def parquet_files(draw: st.DrawFn) -> tuple[str, bytes, list[dict[str, Any]]]:
    names, count = draw(NAMES), draw(st.integers(0, 5))
    columns = {}
    for name in names:
        values, kind = draw(COLUMNS)
        columns[name] = pa.array(draw(st.lists(st.none() | values, min_size=count, max_size=count)), kind)
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    rows = [{name: column[row].as_py() for name, column in columns.items()} for row in range(count)]
    return ".parquet", out.getvalue(), rows


@st.composite
def damaged(draw: st.DrawFn, written: st.SearchStrategy[tuple[str, bytes, Any]]) -> tuple[str, bytes]:
    """A file with a few bytes changed, removed or inserted, or a file of arbitrary bytes."""
    suffix, content, _ = draw(written)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 4)))
        content = content[:start] + draw(st.binary(max_size=4)) + content[end:]
    return suffix, content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content


def check_same(folder: Path, suffix: str, content: bytes, rows: list[dict[str, Any]]) -> None:
    file = folder / f"rows{suffix}"
    file.write_bytes(content)
    table = files.read(file)
    assert table.num_rows == len(rows)
    # Texts of the values, because True == 1 == 1.0.
    read = [{name: repr(table[name][row]) for name in table.column_names} for row in range(table.num_rows)]
    assert read == [{name: repr(value) for name, value in row.items()} for row in rows]


def check_refused_or_read(folder: Path, suffix: str, content: bytes) -> None:
    file = folder / f"rows{suffix}"
    file.write_bytes(content)
    try:
        table = files.read(file)
    except DataError as error:
        assert str(file) in str(error)
        return
    for name in table.column_names:
        for use in (keys, labels, texts):
            try:
                assert len(use(table[name], name, table.where, table.place)) == table.num_rows
            except DataError as error:
                assert str(file) in str(error)


FORMATS = {"json": json_files(), "csv": csv_files(), "parquet": parquet_files()}


def fuzz(limits: settings, check: Callable[..., None], cases: st.SearchStrategy[tuple[Any, ...]], folder: Path) -> None:
    @limits
    @given(case=cases)
    def run(case: tuple[Any, ...]) -> None:
        check(folder, *case)

    run()


@pytest.mark.parametrize("limits", [FAST, pytest.param(LONG, marks=pytest.mark.slow)], ids=["fast", "slow"])
@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_read_as_they_were_written(name: str, limits: settings, tmp_path: Path) -> None:
    fuzz(limits, check_same, FORMATS[name], tmp_path)


@pytest.mark.parametrize("limits", [FAST, pytest.param(LONG, marks=pytest.mark.slow)], ids=["fast", "slow"])
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(name: str, limits: settings, tmp_path: Path) -> None:
    fuzz(limits, check_refused_or_read, damaged(FORMATS[name]), tmp_path)
