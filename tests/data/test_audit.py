"""Audits of partitions: their statistics, and all problems at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedloru.data import Dataset, Partition, audit, dirichlet, iid, shards, synthetic
from fedloru.errors import PartitionError
from tests.data.toys import MADE, toy


@pytest.fixture(scope="module")
def data() -> Dataset:
    return toy(700)


def test_audits_return_statistics(data: Dataset) -> None:
    made = shards(data, 10, 1)
    found = audit(data, made)
    assert (found.clients, found.examples, found.unused, found.sizes) == (10, 700, 0, (70, 70.0, 70))
    assert found.classes == 1 and found.skew == pytest.approx(0.9) and len(found.hash) == 32
    assert found.counts.tolist() == (70 * np.eye(10, dtype=int)).tolist()


def test_audits_list_every_problem() -> None:
    data = toy(10)
    rows = [torch.tensor(own, dtype=torch.int64) for own in ([0, 1, 2], [2, 3, 99], [], [4], [5])]
    tests = [torch.tensor(own, dtype=torch.int64) for own in ([0], [], [], [-1, 6], [7])]
    broken = Partition("made", 0, tuple(rows), tuple(tests), {})
    with pytest.raises(PartitionError) as refused:
        audit(data, broken, min_examples=2)
    message = str(refused.value)
    assert len(message.splitlines()) == 6
    for problem in (
        "rows -1, 99 of clients 1, 3 are not in the range 0 to 9",
        "2 examples are assigned more than once (rows 0, 2), to clients 0, 1;",
        "2 examples are assigned to no client (rows 8, 9)",
        "clients 2 have no training examples",
        "clients 2 have fewer than 2 examples",
    ):
        assert problem in message


def test_audits_reject_the_wrong_number_of_test_sets(data: Dataset) -> None:
    made = iid(data, 10, test_fraction=0.1)
    with pytest.raises(PartitionError, match="10 training sets, but 9 test sets"):
        audit(data, made._replace(test=made.test[:9]))
    with pytest.raises(PartitionError, match="no clients"):
        audit(data, made._replace(train=(), test=()))


def test_statistics_equal_those_of_a_table_of_counts(data: Dataset) -> None:
    for make in MADE.values():
        made = make(data)
        found = audit(data, made)
        table = torch.stack([torch.bincount(data.train["y"][rows], minlength=10) for rows in made.train])
        shares = table.double() / table.sum(1, keepdim=True)
        overall = torch.bincount(data.train["y"]).double() / 700
        assert torch.equal(found.counts, table) and torch.equal(found.first(3), table[:3])
        assert found.skew == pytest.approx(float((shares - overall).abs().sum(1).mean() / 2), abs=1e-12)
        assert found.classes == pytest.approx(float((table > 0).sum(1).double().mean()))


def test_a_synthetic_data_set_passes() -> None:
    data = synthetic(400, (5,), 4)
    found = audit(data, dirichlet(data, 5, 1.0))
    assert found.examples == 320 and found.counts.sum() == 320
