"""Partitions in files: written, read again, read from earlier versions, and refused if they are damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedloru.data import Dataset, Partition, audit, iid, load_partition, partition_arrays, partition_table
from fedloru.errors import PartitionError
from fedloru.files import write_atomic
from tests.data.toys import MADE, same, toy


@pytest.fixture(scope="module")
def data() -> Dataset:
    return toy(700)


def saved(partition: Partition, folder: Path) -> Path:
    path = folder / "partition.json"
    path.write_text(json.dumps(partition_table(partition) | {"classes": ["more"]}))
    path.with_suffix(".safetensors").write_bytes(safetensors.torch.save(partition_arrays(partition)))
    return path


def saved_as_lists(partition: Partition, folder: Path) -> Path:
    """Write a partition as earlier versions did: with the rows in the JSON file."""
    path = folder / "partition.json"
    sides = {"train": partition.train, "test": partition.test}
    lists = {name: [rows.tolist() for rows in side] for name, side in sides.items()}
    path.write_text(json.dumps(partition_table(partition) | lists))
    return path


@pytest.mark.parametrize("scheme", MADE)
def test_partitions_round_trip_through_json(scheme: str, data: Dataset, tmp_path: Path) -> None:
    made = MADE[scheme](data)
    again = load_partition(saved(made, tmp_path))
    assert same(made, again) and audit(data, made).hash == audit(data, again).hash == partition_table(made)["hash"]


def test_client_test_sets_are_saved(data: Dataset, tmp_path: Path) -> None:
    made = iid(data, 10, test_fraction=0.2)
    assert same(made, load_partition(saved(made, tmp_path)))


@pytest.mark.parametrize("scheme", MADE)
def test_partitions_of_earlier_versions_can_be_read(scheme: str, data: Dataset, tmp_path: Path) -> None:
    made = MADE[scheme](data)
    assert same(made, load_partition(saved_as_lists(made, tmp_path)))


def test_damaged_files_are_rejected(data: Dataset, tmp_path: Path) -> None:
    path = saved_as_lists(iid(data, 10), tmp_path)
    document = json.loads(path.read_bytes())
    document["train"][0][0], document["train"][1][0] = document["train"][1][0], document["train"][0][0]
    path.write_text(json.dumps(document))
    with pytest.raises(PartitionError, match="was changed"):
        load_partition(path)
    for damage in (b"", b"{", b"[]", b'{"train": "x", "test": []}', b"\xff\xfe\x00"):
        path.write_bytes(damage)
        with pytest.raises(PartitionError, match="damaged"):
            load_partition(path)
    with pytest.raises(PartitionError, match="there is no partition file"):
        load_partition(tmp_path / "none.json")


def test_damaged_arrays_are_rejected(data: Dataset, tmp_path: Path) -> None:
    path = saved(iid(data, 10), tmp_path)
    arrays, good = path.with_suffix(".safetensors"), partition_arrays(iid(data, 10))
    arrays.write_bytes(safetensors.torch.save(good | {"train": good["train"].flip(0)}))
    with pytest.raises(PartitionError, match="was changed"):
        load_partition(path)
    broken = [
        good | {"train_sizes": good["train_sizes"] + 1},
        good | {"train_sizes": good["train_sizes"].double()},
        good | {"train_sizes": good["train_sizes"][None]},
        good | {"test_sizes": torch.tensor([-1, 1])},
        {"train": good["train"]},
    ]
    for damage in (b"", b"{", *map(safetensors.torch.save, broken)):
        arrays.write_bytes(damage)
        with pytest.raises(PartitionError, match="damaged"):
            load_partition(path)
    arrays.unlink()
    with pytest.raises(PartitionError, match=r"no partition file .*partition.safetensors, which has the rows"):
        load_partition(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept"
    write_atomic(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
