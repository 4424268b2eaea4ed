"""Data sets from tensors, torch data sets, data frames and Arrow tables, and advice for values of other libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as Torch

import fedloru as fl
from fedloru.data import from_arrow, from_frame, from_tensors, from_torch, iid, load, natural
from fedloru.errors import DataError, FedloruError

pd: Any = pytest.importorskip("pandas")

X, Y = torch.arange(40.0).view(20, 2) / 10, torch.arange(20) % 2
SITES = ["rome", "oslo"] * 10


class Pictures(Torch[Any]):
    classes = ("cat", "dog")

    def __init__(self, broken: int = -1, rows: int = 8, shape: tuple[int, ...] = (1, 4, 4)) -> None:
        self.broken, self.rows, self.shape = broken, rows, shape

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Any:
        if row == self.broken:
            raise ValueError("no such file")
        return torch.full(self.shape, row / 10), row % 2


def test_tensors_become_a_data_set() -> None:
    data = from_tensors(X, Y, client=SITES, classes=["no", "yes"], test_fraction=0.2)
    assert data.classes == ("no", "yes") and len(data.train["y"]) == 16 and data.scaling is None
    rows = (data.train["x"][:, 0] * 5).round().long()
    assert torch.equal(data.train["x"], X[rows]) and torch.equal(data.train["y"], Y[rows])
    assert [SITES[row] for row in rows.tolist()] == list(data.columns["client"])
    assert natural(data, "client").names == ("oslo", "rome")
    assert data.remarks == ()


def test_arrays_texts_targets_and_given_tests() -> None:
    data = from_tensors(X.numpy().astype(">f8"), ["b", "a"] * 10, test=(X[:2], ["a", "b"]), standardize=True)
    assert data.classes == ("a", "b") and data.train["x"].dtype == torch.float32 and len(data.test["y"]) == 2
    assert torch.allclose(data.train["x"].mean(0), torch.zeros(2), atol=1e-6)
    targets = from_tensors(X, X[:, 0] + 0.05)
    assert targets.task == "regression" and targets.train["y"].dtype == torch.float32
    pixels = from_tensors(torch.full((4, 1, 2, 2), 255, dtype=torch.uint8), [0, 1, 0, 1], test_fraction=0.5)
    assert pixels.train["x"].dtype == torch.float32 and "values up to 255" in pixels.remarks[0]
    tokens = from_tensors(torch.arange(40).view(20, 2), Y)
    assert tokens.train["x"].dtype == torch.int64


class Unsized(Pictures):
    def __len__(self) -> int:
        raise NotImplementedError("no length")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_tensors(X, Y[:3]), "20 examples, but 3 labels"),
        (lambda: from_tensors(X, Y, client=SITES[:3]), "column 'client' has 3 values for 20 examples"),
        (lambda: from_tensors(X, Y, client="site"), "client is the text 'site', expected one name for each"),
        (lambda: from_tensors(X, Y + 5, classes=["a", "b"]), "label of row 0 is 5, expected class indices from 0 to 1"),
        (lambda: from_tensors(torch.zeros(4, 8, 8, 3), Y[:4]), r"channels last, expected \(N, C, H, W\)"),
        (lambda: from_tensors([[1, 2], [3]], Y[:2]), "x is a list that is not a table of numbers"),
        (lambda: from_tensors(X, Y, test=X), r"test is a Tensor, expected a pair \(x, y\)"),
        (lambda: from_tensors(X.where(X > 0, torch.nan), Y), "not finite.*, first in row 0"),
        (lambda: from_tensors(X, Y, test_fraction=2), "test_fraction is 2, expected a number in"),
        (lambda: from_tensors(pd.DataFrame({"a": [1]}), Y), r"x is a DataFrame, .*fedloru.data.from_frame\(df"),
        (lambda: from_tensors(DataLoader(Pictures()), Y), r"x is a DataLoader, .*from_torch\(loader.dataset\)"),
        (lambda: from_torch(DataLoader(Pictures())), r"dataset is a DataLoader, .*from_torch\(loader.dataset\)"),
        (lambda: from_torch(Pictures(broken=3)), r"dataset\[3\] failed: ValueError: no such file"),
        (lambda: from_torch([(X[0], 1), (X[0, :1], 0)]), r"dataset\[1\] is torch.float32 of shape \(1,\), but"),
        (lambda: from_torch([X[0], X[1]]), r"dataset\[0\] is a Tensor, expected a pair"),
        (lambda: from_torch([({}, 1)]), r"has the example a dict, expected a tensor: add a transform"),
        (lambda: from_torch(Pictures(rows=10**9, shape=(3, 512, 512))), "GiB of memory, but there are"),
        (lambda: from_torch(X), r"dataset is a Tensor, .*from_tensors\(x, y\)"),
        (lambda: from_frame(X, "y"), r"df is a Tensor, expected a pandas DataFrame: fedloru.data.from_tensors"),
        (lambda: from_frame(pd.DataFrame({"a": [1.0]}), "y"), "df has no column 'y'"),
        (lambda: from_frame(pd.DataFrame([[1, 2]], columns=["a", "a"]), "a"), "two columns 'a'"),
        (lambda: from_frame(pd.DataFrame({"a": [1, 2], "y": [0, 1]}), "y", mising="mean"), "did you mean 'missing'"),
        (lambda: from_arrow(pd.DataFrame(), "y"), r"table is a DataFrame, .*from_frame\(df"),
        (lambda: from_tensors(X, Y, standardize="yes"), "standardize is 'yes', expected true or false"),
        (lambda: from_tensors(X, Y, classes="ab"), "classes is 'ab', expected the names"),
        (lambda: from_tensors(X, Y, columns=["a"]), "columns is a list, expected a dict"),
        (lambda: from_tensors(X, Y, client=3), "client is 3, expected one name for each example"),
        (lambda: from_tensors(X, Y, test=(X, Y, SITES[:2])), "column 'client' has 2 values for 20 examples"),
        (lambda: from_tensors(X.to_sparse(), Y), r"x is a tensor of the layout torch.sparse_coo: use to_dense\(\)"),
        (lambda: from_tensors(X.to("meta"), Y), "x is a tensor on the device meta, which holds no values"),
        (lambda: from_torch(Unsized()), "dataset has no length: NotImplementedError: no .*; fix the data set"),
        (lambda: from_frame(frame(), "y", client=SITES), "client is .*, expected a string or None"),
        (lambda: from_frame(frame(), 3), "label is 3, expected a string"),
        (lambda: from_frame(frame(), "y", categorical="sex"), "categorical is 'sex', expected a list of strings"),
        (lambda: from_frame(frame(), "y", categorical=None), "categorical is None, expected a list of strings"),
    ],
)
def test_other_values_are_refused_in_a_sentence(call: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(X[0], 0)])


def test_torch_data_sets_are_read_with_their_transforms_and_classes() -> None:
    data = from_torch(Subset(Pictures(), range(8)), test=Pictures(rows=2), classes=Pictures.classes)
    assert data.train["x"].shape == (8, 1, 4, 4) and data.classes == ("cat", "dog")
    assert data.train["x"][:, 0, 0, 0].tolist() == pytest.approx([row / 10 for row in range(8)])
    assert from_torch(Pictures(), test=Pictures()).classes == ("cat", "dog")
    assert from_torch(TensorDataset(X, Y)).name == "TensorDataset"
    with pytest.raises(DataError, match="it has no length, so read it into a list first"):
        from_torch(Endless())


def frame() -> Any:
    rows = {
        "age": [60.0, 40, np.nan, 50, 30, 80, 20, 45],
        "kind": pd.Categorical([1, 2, 1, 2, 1, 2, 1, 2]),
        "site": ["a", "b"] * 4,
        "sick": [True, False] * 4,
    }
    return pd.DataFrame(rows, index=range(10, 18))


def test_frames_and_arrow_tables_are_tables() -> None:
    settings: dict[str, Any] = {"client": "site", "missing": "median", "standardize": True, "test_fraction": 0.25}
    data = from_frame(frame(), "sick", **settings)
    assert data.encoding is not None and data.encoding.names == ("age", "kind=1", "kind=2")
    assert natural(data, "site").names == ("a", "b") and data.classes == ("False", "True")
    table = pa.table(frame().astype({"kind": "int64"})).replace_schema_metadata(
        {"classes": json.dumps(["well", "sick"])}
    )
    other = from_arrow(table.set_column(3, "sick", pa.array([1, 0] * 4)), "sick", categorical=["kind"], **settings)
    assert torch.equal(other.train["x"], data.train["x"]) and other.classes == ("well", "sick")
    with pytest.raises(DataError, match=r"df, row 2 has no value in column 'age'"):
        from_frame(frame(), "sick", client="site")


@pytest.mark.filterwarnings("error")
def test_lists_of_arrays_and_tensors_with_a_gradient_are_read_without_a_warning() -> None:
    x = np.random.default_rng(0).random((20, 3))
    expected = from_tensors(x, [0, 1] * 10).train["x"]
    assert torch.equal(from_tensors([*x], [0, 1] * 10).train["x"], expected)
    assert torch.equal(from_tensors(torch.tensor(x, requires_grad=True), [0, 1] * 10).train["x"], expected)


def test_an_unnamed_index_of_pandas_is_no_feature(tmp_path: Path) -> None:
    df = frame().drop(columns="age")
    df.to_parquet(tmp_path / "t.parquet")
    for data in (
        from_arrow(pa.Table.from_pandas(df), "sick", client="site", test_fraction=0.25),
        load("csv", path=tmp_path / "t.parquet", label="sick", columns=["site"], test_fraction=0.25),
    ):
        assert data.encoding is not None and list(data.encoding.columns) == ["kind"]


def test_parts_of_a_run_are_refused_with_the_function_to_use() -> None:
    data, model = from_tensors(X, Y), nn.Linear(2, 2)
    parts, net = iid(data, clients=2), fl.make(model)
    calls: list[tuple[Any, str]] = [
        (lambda: fl.run(model, fl.fedavg(), data, parts), "net is a Linear, expected a Net: fedloru.attach"),
        (lambda: fl.run(net, fl.fedavg(), DataLoader(Pictures()), parts), r"from_torch\(loader.dataset\)"),  # type: ignore[arg-type]
        (lambda: fl.run(net, fl.fedavg(), (X, Y), parts), r"a tuple of Tensor and Tensor, .*from_tensors\(x, y\)"),  # type: ignore[arg-type]
        (lambda: fl.run(net, fl.fedavg(), frame(), parts), r"from_frame\(df, label="),
        (lambda: fl.run(net, fl.fedavg(), data, data), "partition is a Dataset, expected a partition, such as"),  # type: ignore[arg-type]
        (lambda: iid(X.numpy(), clients=2), r"the data is a ndarray, .*from_tensors"),  # type: ignore[arg-type]
        (lambda: natural(pa.table({}), "site"), r"the data is a Table, .*from_arrow\(table"),
        (lambda: fl.data.audit(frame(), parts), "the data is a DataFrame"),
        (lambda: fl.attach(net), r"the model is a Net, expected a torch.nn.Module: pass the module, net.model"),  # type: ignore[arg-type]
        (lambda: fl.make(data), "the model is a Dataset, expected a torch.nn.Module"),  # type: ignore[arg-type]
    ]
    for call, message in calls:
        with pytest.raises(FedloruError, match=message):
            call()
