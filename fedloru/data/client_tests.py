"""Parts of the test set for clients without their own test examples: the client's own, or of its mix of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fedloru.data.dataset import Dataset, size
from fedloru.data.partition import Partition
from fedloru.data.ragged import Ragged
from fedloru.rng import gen


def client_tests(dataset: Dataset, partition: Partition, seed: int, used: Tensor | None = None) -> Ragged:
    """Divide the test examples among all clients and return their rows, one sorted vector per client.

    Clients of a natural partition get the test examples that have their key, if the data set knows the keys of its test
    examples. Otherwise, the test examples of a class are divided in proportion to the training examples of that class
    on each client, up to rounding, and at random. Without classes, they are divided in proportion to all training
    examples.

    Args:
        dataset: the data set.
        partition: which training examples each client has.
        seed: draws which examples of a class a client gets.
        used: the rows of the test examples to divide, (n,) int64; None means all.
    """
    rows = torch.arange(size(dataset.test)) if used is None else used.cpu()
    if (named := keys_of_tests(dataset, partition)) is not None:
        return _by_key(named, partition, rows.sort().values)
    order = rows[torch.randperm(len(rows), generator=gen(seed, "client tests"))]
    of_train, of_test = _classes(dataset, dataset.train, partition.train.values), _classes(dataset, dataset.test, order)
    owners = partition.train.owners
    found, clients = [], []
    for label in of_test.unique():
        tests, holders = order[of_test == label], owners[of_train == label]
        if len(holders):
            # Evenly spaced places among the training examples of the class, which are in the order of the clients.
            places = (torch.arange(len(tests)) + 0.5) * len(holders) / len(tests)
            found.append(tests)
            clients.append(holders[places.long()])
    if not found:
        return Ragged.sized(torch.empty(0, dtype=torch.int64), torch.zeros(len(partition.train), dtype=torch.int64))
    values, owned = torch.cat(found), torch.cat(clients)
    by_row = values.argsort()
    parts = Ragged.grouped(owned[by_row], len(partition.train))
    return Ragged(values[by_row][parts.values], parts.offsets)


def keys_of_tests(dataset: Dataset, partition: Partition) -> Sequence[str] | None:
    """Return the key of each test example; None if clients have no keys, or no test example has the key of a client."""
    if partition.scheme != "natural" or partition.names is None:
        return None
    values = dataset.test_columns.get(partition.settings.get("key", ""), ())
    return None if set(partition.names).isdisjoint(values) else values


def tested_on(dataset: Dataset, partition: Partition) -> Literal["own", "key", "classes"]:
    """Return what clients are tested on: their own examples, the test examples of their key, or of their classes."""
    if partition.test:
        return "own"
    return "classes" if keys_of_tests(dataset, partition) is None else "key"


def _by_key(values: Sequence[str], partition: Partition, rows: Tensor) -> Ragged:
    """Return those of the sorted ``rows`` that have the key of each client; rows of other keys are left out."""
    owner = {name: client for client, name in enumerate(partition.names or ())}
    owners = torch.tensor([owner.get(values[row], -1) for row in rows.tolist()], dtype=torch.int64)
    known = owners >= 0
    parts = Ragged.grouped(owners[known], len(partition.train))
    return Ragged(rows[known][parts.values], parts.offsets)


def _classes(dataset: Dataset, examples: dict[str, Tensor], rows: Tensor) -> Tensor:
    """Return the class of each of ``rows``, or 0 if examples have no single class."""
    y = examples.get("y")
    if y is None or y.ndim != 1 or not dataset.classes:
        return torch.zeros(len(rows), dtype=torch.int64)
    return y.cpu()[rows.cpu()]
