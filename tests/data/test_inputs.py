"""New rows of a table as inputs of an exported model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import fedloru as fl
from fedloru.data.inputs import described
from fedloru.errors import DataError


def rows(count: int, seed: int) -> str:
    """Return rows of a table with a number, a category, a code, and values that are missing."""
    draw = random.Random(seed)
    lines = [
        f"{draw.choice(['', '?', draw.randint(30, 80)])},{draw.choice(['m', 'f', ''])},{draw.choice('123')},"
        f"{draw.choice(['yes', 'no'])}"
        for _ in range(count)
    ]
    return "\n".join(["age,sex,code,label", *lines, "50,m,1,yes", "40,f,2,no", "60,m,3,yes"])


def exported(folder: Path, missing: str = "median", standardize: bool = True) -> fl.data.Dataset:
    """Train on a table, export the model to ``folder``/out, and return the data."""
    (folder / "train.csv").write_text(rows(60, 0))
    (folder / "test.csv").write_text(rows(20, 1))
    settings: dict[str, Any] = {"missing": missing, "na": ["?"], "categorical": ["code"], "standardize": standardize}
    data = fl.data.load("csv", path=str(folder / "train.csv"), test=str(folder / "test.csv"), **settings)
    model = fl.models.build("mlp", channels=data.train["x"].shape[1], size=1, classes=2, seed=0)
    run = fl.run(fl.make(model), fl.fedavg(), data, fl.data.iid(data, 2), rounds=1, cohort=2)
    list(run)
    fl.export(run, folder / "out")
    return data


@pytest.mark.parametrize(("missing", "standardize"), [("median", True), ("indicator", True), ("mean", False)])
def test_rows_are_encoded_as_in_training(missing: str, standardize: bool, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    data = exported(tmp_path, missing, standardize)
    found = fl.data.encode(tmp_path / "test.csv", tmp_path / "out")
    assert found.dtype == torch.float32 and torch.equal(found, data.test["x"])
    frame = pd.read_csv(tmp_path / "test.csv", na_values=["?"]).drop(columns="label").assign(more=1)
    assert torch.equal(fl.data.encode(frame, tmp_path / "out"), data.test["x"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "fl.data.encode(" in card and "Columns: age, sex, code." in card and "Classes, in order: no, yes." in card


def test_an_unknown_category_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exported(tmp_path)
    (tmp_path / "new.csv").write_text("age,sex,code\n50,x,1\n")
    found = fl.data.encode(str(tmp_path / "new.csv"), str(tmp_path / "out"))
    assert found.shape == (1, 6) and not found[0, 1:3].any()
    assert "1 " in caplog.text and "row has a value in column 'sex' that is not among its categories" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("age,sex\n50,m\n", "no column 'code'"),
        ("age,sex,code\n", "new.csv has no rows"),
        ("age,sex,code\nold,m,1\n", "column 'age' .*'old'"),
    ],
)
def test_bad_rows_are_refused(content: str, message: str, tmp_path: Path) -> None:
    exported(tmp_path)
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        fl.data.encode(tmp_path / "new.csv", tmp_path / "out")


def test_missing_values_are_refused_if_there_were_none_in_training(tmp_path: Path) -> None:
    facts = {"inputs": {"shape": [2], "columns": {"age": None, "bmi": None}}}
    (tmp_path / "fedloru.json").write_text(json.dumps(facts))
    (tmp_path / "new.csv").write_text("bmi,age\n20,30\n22,\n")
    with pytest.raises(DataError, match=r"new\.csv, row 1 \(line 3\) has no value in column 'age'.*fill it in"):
        fl.data.encode(tmp_path / "new.csv", tmp_path)
    (tmp_path / "new.csv").write_text("bmi,age\n20,30\n")
    assert fl.data.encode(tmp_path / "new.csv", tmp_path).tolist() == [[30.0, 20.0]]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (None, "is not an export: it has no fedloru.json"),
        ({}, "does not say how rows become inputs"),
        ({"inputs": {"shape": [1, 8, 8]}}, "not trained on a table"),
        ({"inputs": {"shape": [2], "columns": {"age": 5}}}, "does not say how"),
        ({"inputs": {"shape": [2], "columns": {"age": None}}}, "columns of 1 features, but another shape"),
        ({"inputs": {"shape": [1], "columns": {"age": None}, "mean": [1.0], "std": []}}, "export the run again"),
        ({"inputs": {"shape": [1], "columns": {"age": None}, "mean": [1.0], "std": [0.0]}}, "export the run again"),
    ],
)
def test_other_exports_are_refused(facts: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("age\n20\n")
    if facts is not None:
        (tmp_path / "fedloru.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=message):
        fl.data.encode(tmp_path / "new.csv", tmp_path)


def test_images_say_their_scaling_and_texts_nothing() -> None:
    x = torch.rand(20, 1, 4, 4)
    found = described(fl.data.from_tensors(x, torch.arange(20) % 2, standardize=True))
    assert found["shape"] == [1, 4, 4] and len(found["mean"]) == len(found["std"]) == 1
    assert described(fl.data.Dataset("texts", {"input_ids": x}, {}, ())) == {}
