"""Remarks on labels, categories, keys and targets that may not mean what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedloru as fl
from fedloru.data import Dataset

SAME = "differ only in case or spaces"


def made(labels: Any, **settings: Any) -> Dataset:
    return fl.data.from_tensors(torch.rand(len(labels), 3), labels, name="toy", **settings)


@pytest.mark.parametrize(
    ("labels", "remark"),
    [
        (["yes", "no", "Yes", "no "] * 9, f"toy has 'Yes' and 'yes', 'no' and 'no ', which {SAME}"),
        (["yes", "no", "1", "0"] * 9, "toy has numbers and words as classes: '0', '1'; and 'no', 'yes'"),
        (["yes", "no", "n/a"] * 9, "toy has the class 'n/a'"),
        ([3, 3] * 9, "toy has only the class '3'"),
        ([*range(60)] * 4, "toy has 60 different integers as labels"),
        ([*np.linspace(1.5, 3e6, 40)], "toy has targets of up to 3e+06"),
        (["yes", "no"] * 9, None),
        (["A1", "A2", "B"] * 9, None),
        ([*range(60)] * 20, None),
        ([*np.linspace(-2.5, 2.5, 40)], None),
    ],
)
def test_doubtful_labels_are_remarked(labels: list[Any], remark: str | None) -> None:
    found = made(labels).remarks
    assert found == () if remark is None else len(found) == 1 and found[0].startswith(remark)


def test_integers_that_are_meant_as_classes_are_not_remarked() -> None:
    labels = [*range(60)] * 4
    assert made(labels, task="classification").remarks == made(labels, classes=[*map(str, range(60))]).remarks == ()


def test_spellings_of_categories_and_keys_are_remarked(tmp_path: Path) -> None:
    rows = "".join(f"{n / 10},{('u', 'U')[n % 2]},{('Basel', 'basel ')[n % 2]},{n // 2 % 2}\n" for n in range(40))
    (tmp_path / "toy.csv").write_text("age,kind,site,label\n" + rows)
    found = fl.data.load("csv", path=tmp_path / "toy.csv", columns=["site"]).remarks
    assert [remark.partition(":")[0] for remark in found] == [
        f"column 'kind' has 'U' and 'u', which {SAME}",
        f"column 'site' has 'Basel' and 'basel ', which {SAME}",
    ]
