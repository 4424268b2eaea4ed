"""Keys of clients and labels: one rule for all sources, for missing, inexact and mixed values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fedloru.data import Dataset, Raw, Rows, load, natural
from fedloru.data.build import build
from fedloru.data.values import keys, labels, texts
from fedloru.errors import DataError
from tests.data.test_sources import encoded


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["b", "a", "None", " x "], ("b", "a", "None", " x ")),
        ([1, -2, 2**70], ("1", "-2", str(2**70))),
        (np.array(["2020-01-01", "2020-01-02"], "M8[D]"), ("2020-01-01", "2020-01-02")),
        (np.array([b"a", b"\xc3\xa9"]), ("a", "é")),
        (torch.tensor([3, 4]), ("3", "4")),
        (pd.Series(["a", "b"], dtype="category"), ("a", "b")),
    ],
)
def test_keys_are_the_text_of_exact_values(values: Sequence[Any], expected: tuple[str, ...]) -> None:
    assert keys(values, "who", "a.csv") == expected == keys(expected, "who", "a.csv")


@pytest.mark.parametrize(
    "missing", [None, math.nan, "", " \t", np.float64("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), b""]
)
def test_missing_values_are_refused(missing: Any) -> None:
    for use in (keys, labels):
        with pytest.raises(
            DataError, match=r"a\.csv: 2 of 4 rows have no 'who' \(rows 1, 3, from 0\), first a\.csv, row 1"
        ):
            use(["a", missing, "b", missing], "who", "a.csv")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"a\.csv, row 0: the key 1.0 in column 'who' is of type float"),
        ([1, "1"], r"mixes types: a\.csv, row 0 has 1 \(integer\), but a\.csv, row 1 has '1' \(text\)"),
        ([True, 1], r"has True \(boolean\), but"),
        (np.array([1, "1"], object), "mixes types"),
        (np.array([0.5]), "is of type float"),
        (["a", "\udc80"], "row 1: .* is not valid Unicode"),
        ([b"\xff"], "not UTF-8"),
        ([[1]], "is of type list"),
        ([{"a": 1}], "is of type object"),
    ],
)
def test_inexact_and_mixed_keys_are_refused(values: Sequence[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        keys(values, "who", "a.csv")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, 1.0], "labels must be integers or strings, got float in column 'y'"),
        ([1, "1"], "mixes types"),
        ([[0], [1]], "got list"),
        ([2**64, 1], "more than 64 bits"),
        (["a\0", "a"], "row 0: the label in column 'y' has a NUL character"),
        (["a", "x" * 1001], "row 1: the label in column 'y' has 1,001 characters: name the column of labels"),
    ],
)
def test_labels_are_integers_or_text(values: Sequence[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels(values, "y", "a.csv")


def test_texts_are_text() -> None:
    assert texts(["a", None, ""], "t", "a.csv") == ["a", "", ""]
    with pytest.raises(DataError, match=r"a\.csv, row 1: column 't' holds integer, expected text"):
        texts(["a", 5], "t", "a.csv")


def parquet(folder: Path, site: Sequence[Any]) -> Dataset:
    count = len(site)
    columns = {
        "image": [encoded(row) for row in range(count)],
        "label": [row % 2 for row in range(count)],
        "site": site,
    }
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return load("parquet", path=str(folder / "a.parquet"), columns=["site"], test_fraction=0.5)


def npz(folder: Path, site: Sequence[Any]) -> Dataset:
    y = np.arange(len(site)) % 2
    np.savez(folder / "a.npz", x=np.zeros((len(site), 3)), y=y, site=np.array(site))
    return load("npz", path=str(folder / "a.npz"), columns=["site"], test_fraction=0.5)


def own(folder: Path, site: Sequence[Any]) -> Dataset:
    rows = Rows(torch.zeros(len(site), 3), np.arange(len(site)) % 2, {"site": site})
    return build("own", Raw(rows), test_fraction=0.5, seed=0)


def by_hand(folder: Path, site: Sequence[Any]) -> Dataset:
    data = Dataset("hand", {"x": torch.zeros(len(site), 3)}, {}, (), {"site": tuple(site)})
    natural(data, "site")
    return data


@pytest.mark.parametrize("source", [parquet, npz, own, by_hand])
def test_every_source_refuses_missing_and_inexact_keys(source: Any, tmp_path: Path) -> None:
    assert set(source(tmp_path, ["a", "a", "b", "b"] * 2).columns["site"]) <= {"a", "b"}
    with pytest.raises(DataError, match="site"):
        source(tmp_path, [math.nan, 1.0, 2.0, 2.0])
    with pytest.raises(DataError, match="have no 'site'"):
        source(tmp_path, ["", "a", "b", "b"])
    with pytest.raises(DataError, match="float"):
        source(tmp_path, [3.0, 1.0, 2.0, 2.0])
    if source is not npz:  # which refuses arrays of objects
        with pytest.raises(DataError, match=r"1 of 4 rows have no 'site' \(rows 3, from 0\), first .*row 3"):
            source(tmp_path, ["a", "a", "b", None])


def test_columns_have_one_key_per_example(tmp_path: Path) -> None:
    rows = Rows(torch.zeros(4, 3), np.arange(4) % 2, {"site": ["a"] * 3})
    with pytest.raises(DataError, match="'site' has 3 values for 4 examples"):
        build("own", Raw(rows), test_fraction=0.5, seed=0)


def test_the_name_of_a_missing_value_is_a_key_with_a_remark(tmp_path: Path) -> None:
    data = npz(tmp_path, ["None", "None", "NA", "Peru"])
    (first, second) = data.remarks
    assert "column 'site' has the text 'NA' in 1 rows" in first and "'None' in 2 rows" in second
