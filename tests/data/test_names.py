"""The names of clients: from natural keys, in files, in messages, and of the run folder and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import fedloru as fl
from fedloru.data import Dataset, Partition, audit, iid, load_partition, natural, partition_arrays, partition_table
from fedloru.errors import PartitionError, TrainingError
from fedloru.report import partition_figure, read
from tests.data.toys import toy

HOSPITALS = ("zürich", "basel", "zürich", "basel", "zürich", "chur")


def hospitals() -> Dataset:
    train = {"x": torch.arange(12.0).view(6, 2), "y": torch.tensor([0, 1, 0, 1, 0, 1])}
    return Dataset("heart", train, train, ("sick", "well"), {"hospital": HOSPITALS})


def test_natural_clients_have_the_names_of_their_keys() -> None:
    made = natural(hospitals(), "hospital")
    assert made.names == ("basel", "chur", "zürich") and [len(rows) for rows in made.train] == [2, 1, 3]
    assert natural(hospitals(), "hospital", min_examples=2, allow_unused=True).names == ("basel", "zürich")
    assert iid(toy(70), 5).names is None and iid(toy(70), 5).label(3) == "3" and made.label(2) == "zürich"
    with pytest.raises(PartitionError, match="fewer than 2 examples: 'chur'"):
        natural(hospitals(), "hospital", min_examples=2)


def test_names_round_trip_through_files(tmp_path: Path) -> None:
    made, path = natural(hospitals(), "hospital"), tmp_path / "partition.json"
    path.write_text(json.dumps(partition_table(made)))
    path.with_suffix(".safetensors").write_bytes(safetensors.torch.save(partition_arrays(made)))
    assert load_partition(path).names == made.names
    path.write_text(json.dumps(partition_table(made) | {"names": ["basel", "chur"]}))
    with pytest.raises(PartitionError, match="2 different names are given for 3 clients"):
        load_partition(path)


@pytest.mark.parametrize(("names", "message"), [(("a", "a"), "1 different names"), ((1, 2), "is 1, expected text")])
def test_names_differ_and_are_text(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        Partition("mine", 0, [torch.tensor([0]), torch.tensor([1])], (), {}, names)


def test_an_audit_names_clients() -> None:
    rows = [torch.tensor([0, 1]), torch.tensor([1, 2, 3, 4, 5])]
    with pytest.raises(PartitionError, match="to clients 'a', 'b'; assign"):
        audit(hospitals(), Partition("mine", 0, rows, (), {}, ("a", "b")))


def test_run_folders_and_pages_have_the_names(tmp_path: Path) -> None:
    data = hospitals()
    net = fl.attach(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)), rank=1)
    partition = natural(data, "hospital")
    list(fl.run(net, fl.fedlora(), data, partition, rounds=1, cohort=3, out=tmp_path / "run"))
    records = read(tmp_path / "run")
    assert records.names == ["basel", "chur", "zürich"]
    assert list(partition_figure.skew(records).layout.yaxis.ticktext) == records.names
    page = (tmp_path / "run/report.html").read_text()
    assert "zürich" in page or "z\\u00fcrich" in page


def test_a_diverging_client_is_named() -> None:
    data = hospitals()
    data.train["x"][5] = 1e38
    net = fl.attach(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)), rank=1)
    run = fl.run(net, fl.fedlora(), data, natural(data, "hospital"), recipe=fl.Recipe(lr=1e3, clip=0.0), cohort=3)
    with pytest.raises(TrainingError, match=r"client 1 \('chur'\), round ") as caught:
        list(run)
    assert caught.value.client == 1
