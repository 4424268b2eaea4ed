"""Parts of the test set for clients without their own test examples."""

from __future__ import annotations

import pytest
import torch

from fedloru.data import Dataset, Partition, from_tensors, iid, natural
from fedloru.data.client_tests import client_tests
from fedloru.errors import DataError


def _dataset(train: torch.Tensor, test: torch.Tensor, classes: int = 3) -> Dataset:
    sides = ({"x": torch.zeros(len(y), 1), "y": y} for y in (train, test))
    return Dataset("mine", *sides, tuple(map(str, range(classes))))


def test_each_client_is_tested_on_its_mix_of_classes() -> None:
    data = _dataset(torch.tensor([0] * 60 + [1] * 40), torch.tensor([0, 1] * 50))
    clients = Partition("by hand", 0, (torch.arange(50), torch.arange(50, 70), torch.arange(70, 100)), (), {})
    parts = client_tests(data, clients, 0)
    y = data.test["y"]
    counts = [torch.bincount(y[rows], minlength=2).tolist() for rows in parts]
    # 50 of 60 zeros are on client 0; of 50 test examples, that is 41.7, and so on.
    expected = torch.tensor([[41.7, 0], [8.3, 12.5], [0, 37.5]])
    assert bool((torch.tensor(counts) - expected).abs().le(1).all())
    assert sorted(torch.cat(list(parts)).tolist()) == list(range(100))
    assert all(rows.tolist() == sorted(rows.tolist()) for rows in parts)


def test_only_the_used_examples_are_divided_and_the_seed_draws_them() -> None:
    data = _dataset(torch.arange(90) % 3, torch.arange(60) % 3)
    clients, used = iid(data, clients=4), torch.arange(0, 60, 2)
    first, again, other = (client_tests(data, clients, seed, used) for seed in (0, 0, 1))
    assert sorted(torch.cat(list(first)).tolist()) == used.tolist()
    assert first == again and first != other


def test_classes_that_no_client_has_are_not_used_and_clients_may_have_no_part() -> None:
    data = _dataset(torch.tensor([0] * 10), torch.tensor([2, 2, 0]))
    clients = iid(data, clients=10)
    parts = client_tests(data, clients, 0)
    assert torch.cat(list(parts)).tolist() == [2] and len(parts) == 10
    nobody = client_tests(_dataset(torch.tensor([0] * 10), torch.tensor([1])), clients, 0)
    assert len(nobody) == 10 and not len(nobody.values)


def test_without_classes_parts_follow_the_sizes() -> None:
    train, test = ({"x": torch.zeros(n, 1), "y": torch.randn(n)} for n in (40, 20))
    data = Dataset("numbers", train, test, ())
    clients = Partition("by hand", 0, (torch.arange(30), torch.arange(30, 40)), (), {})
    assert client_tests(data, clients, 0).sizes.tolist() == [15, 5]


def test_clients_of_a_natural_partition_are_tested_on_the_rows_with_their_key() -> None:
    y = torch.arange(300) % 2
    hospital = [("basel", "chur", "zurich")[row % 3] for row in range(300)]
    data = from_tensors(torch.arange(300.0)[:, None], y, columns={"hospital": hospital}, standardize=False)
    parts = client_tests(data, natural(data, "hospital"), 0)
    assert len(parts.values) == 60 and [len(part) for part in parts] == parts.sizes.tolist()
    for client, part in enumerate(parts):
        assert len(part) and {int(value) % 3 for value in data.test["x"][part]} == {client}
        assert part.tolist() == sorted(part.tolist())


def test_rows_of_other_keys_are_tested_by_nobody_and_without_any_key_of_a_client_classes_decide() -> None:
    train, test = ({"x": torch.zeros(n, 1), "y": torch.arange(n) % 2} for n in (20, 6))
    columns = {"site": ["a", "b"] * 10}

    def parts(*keys: str) -> list[list[int]]:
        data = Dataset("sites", train, test, ("0", "1"), columns, test_columns={"site": keys} if keys else {})
        return [part.tolist() for part in client_tests(data, natural(data, "site"), 0)]

    assert parts("b", "c", "a", "b", "c", "a") == [[2, 5], [0, 3]]
    assert parts("b", "c", "b", "b", "c", "c") == [[], [0, 2, 3]]
    assert parts(*"cccccc") == parts() == [[0, 2, 4], [1, 3, 5]]
    with pytest.raises(DataError, match="'sites', test: column 'site' has 2 values for 6 examples"):
        parts("a", "b")
