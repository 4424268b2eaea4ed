from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedloru import data
from fedloru.data import Dataset, Raw, Rows
from fedloru.data.build import build
from fedloru.data.targets import kind_of
from fedloru.data.values import labels
from fedloru.errors import DataError, PartitionError

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def made(y: Any, task: Any = "auto", **settings: Any) -> Dataset:
    return build("d", Raw(Rows(X[: len(y)], y), **settings), test_fraction=0.25, seed=0, task=task)


def test_floats_are_targets_and_integers_classes() -> None:
    y = np.linspace(0.5, 3, 40)
    regression, classes = made(y), made(np.arange(40) % 2)
    assert (regression.task, classes.task) == ("regression", "classification")
    assert regression.classes == () and regression.train["y"].dtype == torch.float32
    both = torch.cat([regression.train["y"], regression.test["y"]])
    assert len(regression.test["y"]) == 10 and torch.equal(both.sort().values, torch.tensor(y).float())


def test_the_task_decides_what_whole_numbers_are() -> None:
    whole = np.arange(40.0) % 2
    with pytest.raises(DataError, match=r"float64 without decimal places, such as 0.0.*'regression' or 'classif"):
        made(whole)
    assert made(whole, "classification").classes == ("0", "1")
    assert made(whole, "regression").classes == () == made(np.arange(40), "regression").classes
    assert made(np.arange(40), "regression").train["y"].dtype == torch.float32


def test_several_targets() -> None:
    two = np.arange(80).reshape(40, 2) + 0.5
    assert made(two).train["y"].shape == (30, 2) and made(two[:, :1]).train["y"].shape == (30,)
    with pytest.raises(DataError, match=r"shape \(40, 2\), expected \(N,\).*set data.task = 'regression'"):
        made(two.astype(int))
    assert made(two.astype(int), "regression").train["y"].shape == (30, 2)


@pytest.mark.parametrize(
    ("y", "task", "message"),
    [
        (np.array(["a", "b"] * 20), "regression", "data.task is 'regression', but the labels are text"),
        (np.linspace(0, 1, 40), "classification", r"the label of row 1 is 0\.02\d*, expected integers"),
        (
            np.where(np.arange(40) == 3, np.nan, 0.5),
            "auto",
            "targets that are not finite.* in 1 of 40 examples, first in row 3;",
        ),
        (np.where(np.arange(40) == 3, 1e300, 0.5), "auto", "too large for float32"),
        (np.arange(40) + 1j, "auto", "labels must be integers or strings, got complex"),
    ],
)
def test_other_targets_are_refused(y: Any, task: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(y, task)


def test_test_targets_are_like_those_for_training() -> None:
    one, two = Rows(X, np.linspace(0.5, 1, 40)), Rows(X, np.linspace(0, 1, 80).reshape(40, 2))
    with pytest.raises(DataError, match=r"targets of shape \(\), but test examples \(2,\)"):
        build("d", Raw(one, two), test_fraction=0.2, seed=0)
    with pytest.raises(DataError, match=r"test set of d: data\.task is 'classification'"):
        build("d", Raw(Rows(X, np.arange(40) % 2), one), test_fraction=0.2, seed=0)
    whole = Rows(X, np.arange(40))
    assert build("d", Raw(one, whole), test_fraction=0.2, seed=0).test["y"].dtype == torch.float32


def test_a_column_of_numbers_may_mix_integers_and_floats() -> None:
    assert labels([1, 2.5, 3], "y", "f", floats=True).tolist() == [1.0, 2.5, 3.0]
    assert labels([1, 2], "y", "f", floats=True).dtype.kind == "i"
    with pytest.raises(DataError, match="1 of 3 rows have no 'y'"):
        labels([1, 2.5, None], "y", "f", floats=True)
    with pytest.raises(DataError, match="mixes types"):
        labels([1, 2.5, "3"], "y", "f", floats=True)
    with pytest.raises(DataError, match="mixes types"):
        labels([True, 2.5], "y", "f", floats=True)
    with pytest.raises(DataError, match="got float"):
        labels([1.5, 2.5], "y", "f")


def test_targets_from_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X.numpy(), y=np.linspace(0, 1, 40))
    assert data.load("npz", path=str(tmp_path / "a.npz")).task == "regression"
    np.savez(tmp_path / "a.npz", x=X.numpy(), y=np.arange(40))
    assert data.load("npz", path=str(tmp_path / "a.npz"), task="regression").task == "regression"


def test_data_sets_with_targets_from_python() -> None:
    y = torch.linspace(0, 1, 40)
    made = Dataset("d", {"x": X, "y": y[:, None]}, {"x": X, "y": y}, classes=())
    assert made.task == "regression" and made.train["y"].shape == (40,)
    with pytest.raises(DataError, match=r"not finite in 1 of \d+ rows"):
        Dataset("d", {"x": X, "y": y / y}, {}, classes=())


@pytest.mark.parametrize("scheme", ["dirichlet", "shards"])
def test_schemes_by_class_refuse_targets(scheme: str) -> None:
    settings: dict[str, Any] = {"alpha": 1.0} if scheme == "dirichlet" else {"classes_per_client": 2}
    with pytest.raises(PartitionError, match="has targets of a regression, which are numbers: use"):
        data.make_partition(made(np.linspace(0.5, 1, 40)), scheme, clients=3, **settings)
    assert len(data.iid(made(np.linspace(0.5, 1, 40)), 3).train) == 3


def test_the_kind_of_labels_of_a_single_class() -> None:
    assert kind_of("d", np.zeros(3, np.int64)) == "classification"
