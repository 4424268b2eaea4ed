"""Labels are matched with the names of classes by value; where positions are meant, a remark says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloru.data import load
from fedloru.data.classes import numbers
from fedloru.errors import DataError
from tests.data.test_sources import table, write


@pytest.mark.parametrize(
    ("labels", "classes", "indices", "by_position"),
    [
        (["b", "a"], ("b", "a"), [0, 1], False),
        (["b", "a"], None, [1, 0], False),
        ([7, 3], None, [1, 0], False),
        ([7, 3], ("7", "3"), [0, 1], False),
        ([0, 1], ("1", "0"), [1, 0], False),
        ([0, 1], ("neg", "pos"), [0, 1], True),
        (["0", "1"], ("neg", "pos"), [0, 1], True),
        ([0, 2], ("0", "1", "A"), [0, 2], True),
    ],
)
def test_labels_are_matched_by_value(labels: list[Any], classes: Any, indices: list[int], by_position: bool) -> None:
    y = np.array(labels)
    made = numbers("data", y, y[:1], classes)
    assert made.train.tolist() == indices and made.test.tolist() == indices[:1]
    assert any("read as positions" in remark for remark in made.remarks) == by_position
    if by_position and len(labels) == len(made.classes):
        assert made.remarks == ("data: labels are read as positions in the class names: 0 is 'neg', 1 is 'pos'",)


def test_a_class_without_examples_is_a_remark() -> None:
    y = np.array(["a", "b"])
    assert numbers("data", y, y, ("a", "c", "b")).remarks == ("data: no training example has the class 'c'",)


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        (["a", "b", "c"], ["a"], ("a", "b"), "not among its 2 classes: 'c'"),
        (["Cat", "dog"], ["dog"], ("cat", "dog"), "not among its 2 classes: 'Cat'"),
        ([0, 1, 2], [0], ("a", "b"), "not among its 2 classes: 2;"),
        ([-1, 1], [1], ("a", "b"), "not among its 2 classes: -1;"),
        (["00", "01"], ["00"], ("a", "b"), "not among its 2 classes: '00', '01'"),
        ([True, False], [True], ("no", "yes"), "not among its 2 classes: False, True"),
        ([0, 1, 2], [0], ("1", "2", "3"), "labels 1, 2 are names of some classes and positions of others"),
        ([0, 1], [2], None, "no training example has: 2;"),
        (["a", "b"], ["c"], ("a", "b", "c"), "no training example has: 'c';"),
        ([0, 1], ["0", "1"], None, "training labels are integers, but test labels are text"),
        (["a"], ["a"], ("a", "a"), "the class names a are given more than once"),
        (["a"], ["a"], "a", "expected a list of class names, got 'a'"),
        ([0, 1], [0], 2, "expected a list of class names, got 2"),
    ],
)
def test_labels_without_a_certain_class_are_refused(train: Any, test: Any, classes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        numbers("data", np.array(train), np.array(test), classes)


def test_files_with_other_class_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", table(9), ["ant", "bee", "cat"])
    write(tmp_path / "test.parquet", table(6), ["bee", "ant", "cat"])
    with pytest.raises(DataError, match="list different class names, or in another order"):
        load("parquet", path=str(tmp_path))
    write(tmp_path / "test.parquet", table(6), ["ant", "bee", "cat"])
    data = load("parquet", path=str(tmp_path))
    assert "0 is 'ant', 1 is 'bee', 2 is 'cat'" in data.remarks[0]
    for metadata in (json.dumps("ab"), json.dumps([["a"], ["b"]]), "[" * 10**5):
        content = table(4).replace_schema_metadata({"classes": metadata})
        write(tmp_path / "test.parquet", content)
        with pytest.raises(DataError, match="not a JSON list of names"):
            load("parquet", path=str(tmp_path))
