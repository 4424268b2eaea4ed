"""Audit of a partition: every example assigned once, no empty clients, and how skewed the clients are."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.data.dataset import Dataset, labels, size
from fedloru.data.partition import Partition, digest
from fedloru.errors import PartitionError, listed


class Audit(NamedTuple):
    """Statistics of a valid partition; all but ``unused`` and ``hash`` describe training examples."""

    clients: int
    examples: int
    unused: int
    """Training examples of the data set that no client holds, neither for training nor for testing."""
    sizes: tuple[int, float, int]
    """Examples per client: minimum, median, maximum."""
    skew: float
    """Mean total variation distance between the class distributions of a client and of the data set, from 0 to 1."""
    classes: float
    """Mean number of classes per client."""
    hash: str
    counts: Tensor
    """(K, classes) int64: examples per client and class; a single column if examples have no class."""
    tokens: tuple[int, float, int] | None = None
    """Tokens per client, for texts: minimum, median, maximum."""


def audit(dataset: Dataset, partition: Partition, min_examples: int = 1, allow_unused: bool = False) -> Audit:
    """Check ``partition`` and return its statistics.

    Args:
        dataset: the data set that was partitioned.
        partition: the partition to check.
        min_examples: minimum number of examples per client, training and test examples together.
        allow_unused: accept examples that no client holds.

    Raises:
        PartitionError: the partition is not valid; the message lists all problems and the clients they affect.
    """
    total = size(dataset.train)
    problems = list(_problems(partition, total, min_examples, allow_unused))
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise PartitionError(f"the {partition.scheme} partition of {dataset.name!r} is not valid:\n{lines}")
    sizes = [len(rows) for rows in partition.train]
    length = dataset.train.get("length")
    counts = _counts(dataset, partition.train)
    return Audit(
        clients=len(sizes),
        examples=sum(sizes),
        unused=total - sum(len(rows) for rows in partition.train + partition.test),
        sizes=_spread(sizes),
        skew=_skew(dataset, counts),
        classes=float((counts > 0).sum(1).double().mean()),
        hash=digest(partition),
        counts=counts,
        tokens=None if length is None else _spread([int(length[rows].sum()) for rows in partition.train]),
    )


def _spread(sizes: list[int]) -> tuple[int, float, int]:
    return min(sizes), float(median(sizes)), max(sizes)


def _problems(partition: Partition, total: int, min_examples: int, allow_unused: bool) -> Iterator[str]:
    clients = len(partition.train)
    if not clients:
        yield "it has no clients"
        return
    if len(partition.test) not in (0, clients):
        yield (
            f"there are {clients} training sets, but {len(partition.test)} test sets; "
            "give every client a test set, or none"
        )
    rows, owners = _assignments(partition)
    in_range = (rows >= 0) & (rows < total)
    uses = torch.bincount(rows[in_range], minlength=total)
    yield from _out_of_range(rows[~in_range], owners[~in_range], total)
    yield from _duplicates(rows[in_range], owners[in_range], uses)
    if not allow_unused and (unused := _where(uses == 0)):
        yield f"{len(unused)} examples are assigned to no client (rows {listed(unused)}); set allow_unused to allow it"
    yield from _too_small(partition, torch.bincount(owners, minlength=clients), min_examples)


def _out_of_range(rows: Tensor, owners: Tensor, total: int) -> Iterator[str]:
    if len(rows):
        invalid, clients = sorted(set(rows.tolist())), sorted(set(owners.tolist()))
        yield (
            f"rows {listed(invalid)} of clients {listed(clients)} are not in the range 0 to {total - 1}; "
            "the partition was made for other data"
        )


def _duplicates(rows: Tensor, owners: Tensor, uses: Tensor) -> Iterator[str]:
    if duplicates := _where(uses > 1):
        clients = sorted(set(owners[uses[rows] > 1].tolist()))
        yield (
            f"{len(duplicates)} examples are assigned more than once (rows {listed(duplicates)}), "
            f"to clients {listed(clients)}; assign each to one client, for training or for testing"
        )


def _too_small(partition: Partition, sizes: Tensor, min_examples: int) -> Iterator[str]:
    if empty := [client for client, rows in enumerate(partition.train) if not len(rows)]:
        yield f"clients {listed(empty)} have no training examples; remove them, or use fewer clients"
    if small := _where(sizes < min_examples):
        yield f"clients {listed(small)} have fewer than {min_examples} examples; lower min_examples, or merge clients"


def _where(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


def _assignments(partition: Partition) -> tuple[Tensor, Tensor]:
    """Return all assigned rows, for training and for testing, and the client that each is assigned to."""
    parts = [*enumerate(partition.train), *enumerate(partition.test)]
    lengths = torch.tensor([len(rows) for _, rows in parts])
    owners = torch.tensor([client for client, _ in parts]).repeat_interleave(lengths)
    return torch.cat([rows for _, rows in parts]), owners


def _counts(dataset: Dataset, train: tuple[Tensor, ...]) -> Tensor:
    y = labels(dataset)
    if y is None:
        return torch.tensor([[len(rows)] for rows in train])
    classes = len(dataset.classes)
    owners = torch.arange(len(train)).repeat_interleave(torch.tensor([len(rows) for rows in train]))
    return torch.bincount(owners * classes + y[torch.cat(train)], minlength=len(train) * classes).view(-1, classes)


def _skew(dataset: Dataset, counts: Tensor) -> float:
    y = labels(dataset)
    if y is None:
        return 0.0
    overall = torch.bincount(y, minlength=len(dataset.classes)).double() / len(y)
    per_client = counts.double() / counts.sum(1, keepdim=True)
    return float((per_client - overall).abs().sum(1).mean() / 2)
