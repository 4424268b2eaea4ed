from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fedloru as fl
from fedloru.errors import ConfigError, DataError, FedloruError, ModelError

X, Y = torch.randn(12, 4), torch.arange(12) % 3
TENSORS = TensorDataset(X, Y)


def dataset(train: Any = None, test: Any = None, classes: Any = ("a", "b", "c"), **more: Any) -> fl.data.Dataset:
    good = {"x": X, "y": Y}
    return fl.data.Dataset("toy", good if train is None else train, good if test is None else test, classes, **more)


@pytest.mark.parametrize("y", [Y.int(), Y.to(torch.uint8), Y[:, None], Y[:, None].short()])
def test_class_indices_become_int64(y: torch.Tensor) -> None:
    data = dataset({"x": X, "y": y}, {"x": X, "y": y})
    assert all(torch.equal(part["y"], Y) and part["y"].dtype == torch.int64 for part in (data.train, data.test))


def test_tensors_are_detached_and_classes_named() -> None:
    data = dataset({"x": X.clone().requires_grad_(), "y": Y}, classes=range(3), columns={"site": ["s"] * 12})
    assert not data.train["x"].requires_grad
    assert data.classes == ("0", "1", "2") and data.columns == {"site": ("s",) * 12}
    assert isinstance(data._replace(name="other"), fl.data.Dataset)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"x": X.numpy(), "y": Y}, r"'toy', train\['x'\] is a ndarray, .* torch.from_numpy"),
        ({"x": X, "y": Y.tolist()}, r"train\['y'\] is a list, .* torch.tensor"),
        ((X, Y), "train is a tuple, expected a dict of tensors"),
        (TENSORS, "train is a TensorDataset, .* fedloru.data.from_torch"),
        (DataLoader(TENSORS), "train is a DataLoader, .* fedloru.data.from_torch"),
        ({"x": X[:5], "y": Y}, "5 rows of 'x' and 12 rows of 'y'"),
        ({"x": X, "y": Y.float()}, r"has torch.float32, expected class indices, .* y.long\(\)"),
        ({"x": X, "y": Y - 1}, "is -1 in row 0, expected class indices, from 0 to 2"),
        ({"x": X, "y": Y + 1}, "is 3 in row 2, expected class indices"),
        ({"x": X.where(X < 0, torch.nan), "y": Y}, "not finite in .* rows, first in row"),
        ({"x": X * torch.inf, "y": Y}, "not finite in 12 of 12 rows"),
        ({"x": X.to(torch.complex64), "y": Y}, "complex64 .* expected real numbers"),
        ({"x": torch.tensor(3.0), "y": Y}, r"shape \(\), expected real numbers"),
        ({"x": X.to("meta"), "y": Y}, "expected a dense tensor"),
        ({"x": X.to_sparse(), "y": Y}, "expected a dense tensor"),
    ],
)
def test_other_examples_are_refused(train: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(train)
    with pytest.raises(DataError, match=message.replace("train", "test")):
        dataset(test=train)


@pytest.mark.parametrize("classes", [3, "abc"])
def test_classes_must_be_names(classes: Any) -> None:
    with pytest.raises(DataError, match="expected the names of the classes"):
        dataset(classes=classes)


def test_columns_have_a_value_per_example() -> None:
    with pytest.raises(DataError, match="column 'site' has 3 values for 12 examples"):
        dataset(columns={"site": ("s",) * 3})


def run(data: fl.data.Dataset) -> None:
    net = fl.attach(nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), rank=2)
    fl.run(net, fl.fedloru(recipe="paper"), data, fl.data.iid(data, 2), rounds=1, cohort=2)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ({"x": X, "y": np.eye(3)[Y]}, DataError, "is a ndarray"),
        ({"x": X, "y": torch.eye(3)[Y]}, ConfigError, r"training examples .* y has shape \(12, 3\).*y.argmax\(1\)"),
        ({"image": X, "label": Y}, ConfigError, "have 'image' and 'label', but no 'x' and 'y'"),
        ({"x": X.double(), "y": Y}, ModelError, r"an example of 'toy', x of shape \(1, 4\).* got Double"),
        ({"x": (X * 9).byte(), "y": Y}, ModelError, r"x of shape \(1, 4\).* got Byte"),
        ({"x": X[:, 0], "y": Y}, ModelError, r"x of shape \(1,\)"),
        ({}, FedloruError, "0 examples"),
    ],
)
def test_examples_that_the_model_cannot_take_are_named(train: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(dataset(train))
