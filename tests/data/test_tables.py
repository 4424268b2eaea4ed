"""Tables with named columns as features: numbers, categories, missing values, statistics of training rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fedloru.data import Dataset, load
from fedloru.errors import DataError

ROWS = [
    ("age", "sex", "chol", "label"),
    (63, "m", 233.5, "sick"),
    (37, "f", 250, "well"),
    (41, "f", 204, "sick"),
    (56, "m", "", "well"),
    (57, "m", 354, "sick"),
    (44, "f", 263, "well"),
    (52, "m", "", "sick"),
    (57, "f", 168, "well"),
]


def csv(path: Path, rows: Iterable[Iterable[Any]] = ROWS, end: str = "\n") -> str:
    path.write_bytes("".join(",".join(map(str, row)) + end for row in rows).encode())
    return str(path)


def table(path: str, **settings: Any) -> Dataset:
    return load("csv", path=path, **settings)


def test_a_csv_file_becomes_features(tmp_path: Path) -> None:
    data = table(csv(tmp_path / "heart.csv"), features=["sex", "age"], test_fraction=0.5)
    assert data.name == "heart" and data.classes == ("sick", "well") and data.encoding is not None
    assert data.encoding.names == ("sex=f", "sex=m", "age") and data.scaling is None
    every = torch.cat([data.train["x"], data.test["x"]])
    want = [[float(row[1] == "f"), float(row[1] == "m"), float(str(row[0]))] for row in ROWS[1:]]
    assert sorted(every.tolist()) == sorted(want) and every.dtype == torch.float32
    assert "'age' has values up to 6" in data.remarks[0] or "'age' has values up to 5" in data.remarks[0]


def test_the_same_rows_in_every_format_are_the_same_data(tmp_path: Path) -> None:
    names = list(map(str, ROWS[0]))
    rows = [dict(zip(names, row, strict=True)) | {"chol": row[2] or None} for row in ROWS[1:]]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    floats = [row | {"chol": row["chol"] and float(row["chol"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(floats), tmp_path / "t.parquet")
    csv(tmp_path / "t.csv", end="\r\n")
    bom = tmp_path / "bom" / "t.tsv"
    bom.parent.mkdir()
    bom.write_text("\ufeff" + "\n".join("\t".join(map(str, row)) for row in ROWS))
    paths = [tmp_path / f"t.{end}" for end in ("csv", "jsonl", "parquet")]
    made = [table(str(path), missing="mean", standardize=True) for path in (*paths, bom)]
    for other in made[1:]:
        assert torch.equal(made[0].train["x"], other.train["x"]) and made[0].encoding == other.encoding


def test_statistics_and_categories_are_those_of_the_training_rows(tmp_path: Path) -> None:
    train = csv(tmp_path / "train.csv", [("a", "b", "label"), (1, "u", 0), (3, "v", 1), (8, "u", 0), ("", "", 1)])
    test = csv(tmp_path / "more.csv", [("a", "b", "label"), (100, "w", 0), ("", "", 1)])
    data = table(train, test=test, missing="median", standardize=True)
    assert data.encoding is not None and data.encoding.fill == {"a": 3.0, "b": "u"}
    filled = np.array([1, 3, 8, 3])
    want = (np.array([100, 3]) - filled.mean()) / filled.std()
    assert torch.allclose(data.test["x"][:, 0], torch.tensor(want, dtype=torch.float32))
    assert data.test["x"][:, 1:].tolist() == [[0, 0], [1, 0]]
    assert any("1 test row has a value in column 'b' that is not among" in remark for remark in data.remarks)


def test_indicators_are_further_features(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", [("a", "label"), *[(value, row % 2) for row, value in enumerate([1, "", 3, 5])]])
    data = table(path, missing="indicator", test=path)
    assert data.encoding is not None and data.encoding.names == ("a", "a is missing")
    assert data.train["x"].tolist() == [[1, 0], [3, 1], [3, 0], [5, 0]]


def test_declared_categories_and_fills_are_used_as_they_are(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", [("a", "b", "label"), (1, "u", 0), ("", "v", 1), (2, "x", 0), (3, "", 1)])
    features = {"b": ["v", "u", "z"], "a": "category"}
    data = table(path, features=features, fill={"b": "z", "a": "2"}, missing="mean", test=path)
    assert data.encoding is not None and data.encoding.names == ("b=v", "b=u", "b=z", "a=1", "a=2", "a=3")
    assert data.train["x"].tolist() == [
        [0, 1, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 1],
    ]
    again = table(path, features=data.encoding.declaration, fill=data.encoding.fill, missing="mean", test=path)
    assert again.encoding == data.encoding and torch.equal(again.train["x"], data.train["x"])


def test_codes_and_booleans(tmp_path: Path) -> None:
    rows = {"code": [1.0, 2.0, None, 1.0], "on": [True, False, True, True], "label": [0, 1, 0, 1]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    path = str(tmp_path / "t.parquet")
    data = table(path, categorical=["code"], missing="median", test=path)
    assert data.encoding is not None and data.encoding.names == ("code=1", "code=2", "on")
    assert data.train["x"].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1], [1, 0, 1]]


def test_labels_of_numbers_are_sorted_as_numbers_and_decimals_are_targets(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", [("a", "label"), *[(row % 3, label) for row, label in enumerate([10, 2, 10, 2])]])
    assert table(path, test_fraction=0.5).classes == ("2", "10")
    path = csv(tmp_path / "u.csv", [("a", "label"), *[(row % 3, row / 4) for row in range(10)]])
    data = table(path)
    assert data.task == "regression" and data.train["y"].dtype == torch.float32 and len(data.test["y"]) == 2


BAD: dict[str, tuple[list[Any], str]] = {
    "missing": ([1, "", 3], "row 1 \\(line 3\\) has no value in column 'a'; 1 in 'a' are missing"),
    "thousands": ([1, '"1,234"', 3], "row 1 \\(line 3\\): column 'a' has numbers, but '1,234' is not a number"),
    "all thousands": (['"1,000"', '"2,000"', '"3,000"'], "'1,000' in column 'a' is not a number as programs write it"),
    "decimal comma": (['"1,5"', '"2,5"', '"3,5"'], "'1,5' in column 'a' is not a number"),
    "codes": (["007", "008", "009"], "'007' in column 'a' is not a number"),
    "mixed": ([1, "two", 3], "column 'a' has numbers, but 'two' is not a number"),
    "NA": ([1, "NA", 3], "but 'NA' is not a number: .*data.na"),
    "dates": (
        ["2024-01-31", "2024-02-01", "2024-02-02"],
        "'2024-01-31' in column 'a' is a date or time: convert it, such as to days",
    ),
    "german dates": (["31.01.2024", "1.2.2024", "2.2.2024"], "is a date or time: convert it"),
    "a date among numbers": ([1, "2024-01-31", 2], "'2024-01-31' looks like a date"),
    "infinite": (["inf", "inf", "inf"], "'inf' in column 'a' is not a number"),
    "too large": ([1, "1e300", 2], "row 1 \\(line 3\\): column 'a' has an infinite or too large number"),
    "underscores": (["1_000", "2_000", "3_000"], "is not a number as programs write it"),
    "other digits": (["１２", "１３", "１４"], "is not a number as programs write it"),
    "identifiers": ([f"name{row}" for row in range(21)], "has 21 different texts in 2. rows|like free text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_refused_with_their_row(name: str, tmp_path: Path) -> None:
    values, message = BAD[name]
    path = csv(tmp_path / "t.csv", [("a", "b", "label"), *[(each, 1, row % 2) for row, each in enumerate(values)]])
    with pytest.raises(DataError, match=message):
        table(path, test=path)


def test_texts_for_missing_values_and_columns_that_look_like_numbers(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", [("a", "zip", "label"), (1, "007", 0), ("?", "008", 1), (3, "007", 0)])
    data = table(path, na=["?"], missing="mean", categorical=["zip"], test=path)
    assert data.train["x"].tolist() == [[1, 1, 0], [2, 0, 1], [3, 1, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "2", 3], "column 'a' mixes types: .*row 0 .*has 1 \\(integer\\), but .*row 1 .*has '2' \\(text\\)"),
        (["1", "2", "3"], "'1' in column 'a' is text that is a number"),
        ([[1], [2], [3]], "column 'a' has \\[1\\] \\(list\\), expected a number"),
        ([1, 10**400, 2], "has a number that is too large"),
        ([1e39, 1, 2], "infinite or too large"),
    ],
)
def test_types_of_json_are_kept(values: list[Any], message: str, tmp_path: Path) -> None:
    rows = [{"a": value, "label": row % 2} for row, value in enumerate(values)]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        table(str(tmp_path / "t.json"), test=str(tmp_path / "t.json"))


def test_dates_of_parquet_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [date(2024, 1, 1)] * 4, "label": [0, 1, 0, 1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"column 'a' has .*\(date\), expected a number: convert it, such as to days"):
        table(str(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "lable"}, "has no column 'lable'; did you mean 'label'"),
        ({"features": ["agee"]}, "has no column 'agee'; did you mean 'age'"),
        ({"features": ["label"]}, "is the label and a feature"),
        ({"features": {"age": "numeric"}}, "has 'numeric' for 'age', expected 'number', 'category' or a list"),
        ({"features": {"sex": []}}, "expected different categories"),
        ({"features": {"sex": ["m", "m"]}}, "expected different categories"),
        ({"features": "age"}, "expected a list of columns"),
        ({"missing": "drop"}, "missing is 'drop', expected 'refuse', 'median', 'mean' or 'indicator'"),
        ({"fill": {"chol": 1.0}}, "data.fill is set, but data.missing is 'refuse': set it to 'median'"),
        (
            {"missing": "mean", "fill": {"col": 1.0}},
            "data.fill has 'col', which is no column of features; did you mean",
        ),
        (
            {"missing": "mean", "fill": {"sex": "x"}},
            "data.fill has 'x' for column 'sex', expected one of its categories",
        ),
        ({"missing": "mean", "fill": {"chol": "a"}}, "data.fill has 'a' for column 'chol', expected a number"),
        ({"test": "nowhere.csv"}, "no test file|no file nowhere.csv: check data.test"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        table(csv(tmp_path / "t.csv"), **settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("a,label\n", "has no rows"),
        ("a,a,label\n1,2,0\n", "two columns 'a'"),
        ("a;label\n1;0\n", "separated by semicolons"),
        ("a,label\n1,0\n2\n", "row 1 \\(line 3\\) has 1 values"),
        ("label\n0\n1\n", "has no columns besides"),
        ("a,label\n,0\n,1\n", "no value"),
        (",a,label\n0,5,0\n1,6,1\n", "column without a name, like the index that pandas writes"),
        ("a,label\r1,0\r2,1\r", "correct its quotes or line ends"),
        ("a,label\n1,\n2,1\n", "rows have no 'label'"),
    ],
)
def test_bad_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        table(str(tmp_path / "t.csv"))


def test_quoted_line_breaks_and_unknown_test_labels(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b,label\n1,"x\ny",0\n2,z,1\n3,"x\ny",0\n4,z,1\n')
    data = table(str(tmp_path / "t.csv"), test=str(tmp_path / "t.csv"))
    assert data.encoding is not None and data.encoding.names == ("a", "b=x\ny", "b=z")
    with pytest.raises(DataError, match="test labels that no training example has: 7"):
        table(str(tmp_path / "t.csv"), test=csv(tmp_path / "u.csv", [("a", "b", "label"), (1, "z", 7)]))


def test_paths_large_labels_and_doubtful_categories(tmp_path: Path) -> None:
    large = 10**20
    rows = [("a", "label"), *[(("NA", "x")[row % 2], (large, 1)[row % 2]) for row in range(8)]]
    csv(tmp_path / "t.csv", rows)
    data = load("csv", path=tmp_path / "t.csv")
    assert data.classes == ("1", str(large))
    assert data.remarks == ("column 'a' has the category 'NA'; if it stands for a missing value, list it in data.na",)


def test_test_rows_keep_their_keys(tmp_path: Path) -> None:
    rows = [(("basel", "chur")[row % 2], row, ("sick", "well")[row // 2 % 2]) for row in range(40)]
    for name, part in (("train", rows), ("test", rows[:6]), ("all", rows)):
        lines = [",".join(map(str, row)) for row in (("hospital", "age", "label"), *part)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    held = load("csv", path=tmp_path / "all.csv", columns=["hospital"])
    given = load("csv", path=tmp_path / "train.csv", test=tmp_path / "test.csv", columns=["hospital"])
    for data in (held, given):
        expected = [("basel", "chur")[int(age) % 2] for age in data.test["x"][:, 0]]
        assert list(data.test_columns["hospital"]) == expected
    assert given.test_columns["hospital"] == ("basel", "chur") * 3
    (tmp_path / "test.csv").write_text("age,label\n1,sick\n2,well\n")
    assert load("csv", path=tmp_path / "train.csv", test=tmp_path / "test.csv", columns=["hospital"]).test_columns == {}


@pytest.mark.parametrize(("rows", "made", "noted"), [(100, 1, True), (100, 7, False), (40, 1, False)])
def test_a_column_that_says_every_label_is_remarked(tmp_path: Path, rows: int, made: int, noted: bool) -> None:
    table = ["stage,age,label"]
    table += [f"{row % 4 if row % made == 0 else 2},{row * 37 % 29},{int(row % 4 > 0)}" for row in range(rows)]
    (tmp_path / "table.csv").write_text("\n".join(table))
    remarks = " ".join(load("csv", path=tmp_path / "table.csv", standardize=True).remarks)
    assert ("column 'stage' says the label of every training row: each of its 4 values" in remarks) is noted
    assert "'age'" not in remarks


def test_missing_categories_may_say_the_label(tmp_path: Path) -> None:
    table = [
        "ward,noise,label",
        *(f"{('', 'a', 'b')[row % 3]},{('', 'x')[row % 2]},{int(row % 3 > 0)}" for row in range(90)),
    ]
    (tmp_path / "table.csv").write_text("\n".join(table))
    (remark,) = load("csv", path=tmp_path / "table.csv", missing="indicator").remarks
    assert "column 'ward' says the label of every training row: each of its 3 values" in remark
