"""Files of rows: JSON, JSON Lines, CSV and parquet, read with the types they were written with, or refused."""

from __future__ import annotations

import gzip
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedloru.data import files, lines, parquet_rows
from fedloru.data.table import Table
from fedloru.data.values import keys, labels
from fedloru.errors import DataError

ROWS = [{"text": "2021-03-01", "user": 2**64 - 1 + n, "more": {"a": [1.5, None, True]}} for n in range(3)]


def read(folder: Path, name: str, content: bytes | str) -> Table:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return files.read(file)


def rows(table: Table) -> list[dict[str, Any]]:
    return [{name: table[name][row] for name in table.column_names} for row in range(table.num_rows)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("a.ndjson", "\ufeff" + "\r\n\r\n".join(map(json.dumps, ROWS))),
        ("A.JSON", "\r".join(map(json.dumps, ROWS))),
        ("a.json", json.dumps(ROWS)),
        ("a.json", f"\ufeff\n{json.dumps(ROWS, indent=4)}\n\n"),
        ("a.json", "\n".join(json.dumps(row, indent=1) for row in ROWS)),
    ],
)
def test_json_keeps_its_types(tmp_path: Path, name: str, content: str) -> None:
    table = read(tmp_path, name, content)
    assert rows(table) == ROWS
    assert keys(table["user"], "user", "") == tuple(str(2**64 - 1 + n) for n in range(3))
    assert labels(table["text"], "text", "").tolist() == ["2021-03-01"] * 3


def test_rows_may_lack_columns_and_hold_one_conversation(tmp_path: Path) -> None:
    assert rows(read(tmp_path, "a.jsonl", '{"a": 1}\n{"b": "x"}')) == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    conversation = {"messages": [{"role": "user", "content": "hello"}]}
    assert rows(read(tmp_path, "a.json", json.dumps(conversation))) == [conversation]
    assert read(tmp_path, "a.json", "[]").num_rows == read(tmp_path, "a.json", " \n").num_rows == 0


def test_values_of_csv_are_text_as_written(tmp_path: Path) -> None:
    values = ["NA", "None", "null", "nan", "0123", "1e5", "true", "2024-01-01", " a ", 'say "hi"', "two\r\nlines", ""]
    quoted = [value.replace('"', '""') for value in values]
    for name, mark in (("a.csv", ","), ("a.tsv", "\t")):
        content = f"x{mark}y\n" + "".join(f'"{value}"{mark}{row}\n' for row, value in enumerate(quoted))
        table = read(tmp_path, name, "\ufeff" + content)
        assert table["x"] == values and table["y"] == [str(row) for row in range(len(values))]
    assert rows(read(tmp_path, "a.csv", ",x\r\n0,a\r\n\r\n1,b")) == [{"": "0", "x": "a"}, {"": "1", "x": "b"}]
    long = "x" * 200_000
    assert read(tmp_path, "a.csv", f"x\n{long}\n")["x"] == [long], "longer than the csv module's own limit"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 2\n{"a": 3}\n', r"a\.jsonl, row 1 \(line 3\) is not valid JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"row 1 \(line 2\) is of type list, expected an object"),
        ("a.jsonl", '{"a": 1}\n{"a": NaN}\n', r"row 1 \(line 2\) has NaN, which is not valid JSON"),
        ("a.jsonl", '{"a": -Infinity}', r"row 0 \(line 1\) has -Infinity"),
        ("a.jsonl", '{"a": 1e999}', "1e999, which is too large"),
        ("a.jsonl", '{"a": {"b": 1, "b": 2}}', "has the key 'b' twice"),
        ("a.jsonl", '{"a": "\\ud800"}', "half of a surrogate pair"),
        ("a.jsonl", f'{{"a": {"9" * 5000}}}', "an integer of 5,000 digits"),
        ("a.jsonl", f'{{"a": {"[" * 10**5}{"]" * 10**5}}}', r"row 0 \(line 1\) is nested too deeply"),
        ("a.jsonl", b'{"a": "x"}\n{"a": "\xe9"}', "line 2 is not UTF-8 text"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "UTF-16 text: save it as UTF-8"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "compressed .gzip.: decompress it"),
        ("a.json", json.dumps({"data": [{"a": 1}, {"a": 2}]}), "has one object, with 2 objects in 'data'"),
        ("a.json", '[{"a": 1},\n {"a": 2},\n]', r"row 1 \(line 3\) is not valid JSON: expected a row after ','"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', r"row 0 \(line 2\) is not valid JSON: expected ',' or '\]'"),
        ("a.json", '[{"a": 1}', r"expected '\]' after the last row"),
        ("a.json", '[{"a": 1}] x', "expected nothing after the array, got 'x'"),
        ("a.json", "[1, 2]", r"row 0 \(line 1\) is of type integer"),
        ("a.json", "null", "is of type null"),
        ("a.csv", "", "is empty: expected a first line with the names"),
        ("a.csv", "a,a\n1,2\n", "two columns 'a'"),
        ("a.csv", "a;b\n1;2\n", "separated by semicolons, expected commas"),
        ("a.csv", "a,b\n1,2\n\n3\n", r"row 1 \(line 4\) has 1 values, but the first line names 2 columns"),
        ("a.csv", 'a,b\n1,"x"y\n', "line 2 is not a row of values"),
        ("a.csv", 'a,b\n1,"x\n2,y\n', "unexpected end of data"),
        ("a.csv", b"a,b\n1,2\n\xff,3\n", "line 3 is not UTF-8 text"),
        ("a.jsonl.gz", "", "unknown file type.*decompress it first"),
        ("a.parquet", b"PAR1", "not a readable parquet file"),
    ],
)
def test_bad_files_are_refused_with_their_row(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, name, content)
    assert str(tmp_path / name) in str(caught.value)


def test_lines_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 100)
    monkeypatch.setattr(lines, "MAX_FILE", 1000)
    assert read(tmp_path, "a.jsonl", f'{{"a": "{"x" * 90}"}}\n{{"a": ""}}').num_rows == 2
    for name in ("a.jsonl", "a.csv"):
        with pytest.raises(DataError, match="line 2 has more than 100 bytes"):
            read(tmp_path, name, f'{{"a": 1}}\n{"x" * 101}')
    assert read(tmp_path, "a.json", json.dumps([{"a": 1}] * 9)).num_rows == 9
    with pytest.raises(DataError, match="at most 1,000 are read"):
        read(tmp_path, "a.json", "[\n" + " " * 1000 + "]")


def test_names_of_parquet_columns_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"é": [1, 2]}), file, store_schema=False)
    file.write_bytes(file.read_bytes().replace("é".encode(), b"\x80\x81"))
    with pytest.raises(DataError, match="not a readable parquet file"):
        files.read(file)


def test_parquet_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": ["x" * 1000 + str(row) for row in range(9)]}), tmp_path / "a.parquet")
    monkeypatch.setattr(parquet_rows, "MAX_BYTES", 9000)
    with pytest.raises(DataError, match="bytes before compression, but at most 9,000 are read"):
        files.read(tmp_path / "a.parquet")
    monkeypatch.setattr(parquet_rows, "MAX_ROWS", 8)
    with pytest.raises(DataError, match="has 9 rows, but at most 8 are read"):
        files.read(tmp_path / "a.parquet")


def test_memory_errors_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", full)
    with pytest.raises(DataError, match=r"a\.json does not fit into memory"):
        read(tmp_path, "a.json", "[{}]")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), ("a", "b")),
        (pa.array(["a", "b"], pa.large_string()), ("a", "b")),
        (pa.array(["a", "b"], pa.string_view()), ("a", "b")),
        (pa.array([2**64 - 1, 2**64 - 2], pa.uint64()), ("18446744073709551615", "18446744073709551614")),
        (pa.array([Decimal(2**64), Decimal(1)], pa.decimal128(38, 0)), ("18446744073709551616", "1")),
        (pa.array([date(2024, 1, 2), date(2024, 1, 3)]), ("2024-01-02", "2024-01-03")),
        (pa.array([0, 1], pa.timestamp("ns")), ("1970-01-01 00:00:00", "1970-01-01 00:00:00.000000001")),
        (pa.array([0, 1], pa.time64("ns")), ("00:00:00.000000000", "00:00:00.000000001")),
        (pa.array([b"a", b"b"]), ("a", "b")),
    ],
)
def test_keys_of_parquet(tmp_path: Path, column: pa.Array, expected: tuple[str, ...]) -> None:
    pq.write_table(pa.table({"key": column}), tmp_path / "a.parquet")
    table = files.read(tmp_path / "a.parquet")
    assert keys(table["key"], "key", table.where, table.place) == expected


def test_damaged_columns_of_parquet_are_refused(tmp_path: Path) -> None:
    text = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    pq.write_table(pa.table({"text": text, "date": pa.array([10**8], pa.date32())}), tmp_path / "a.parquet")
    for name in ("text", "date"):
        with pytest.raises(DataError, match=rf"a\.parquet: column '{name}' has values that cannot be read"):
            files.read(tmp_path / "a.parquet")[name]
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns 'a'"):
        files.read(tmp_path / "a.parquet")
