"""The audit of a partition: nothing twice, nothing lost, nobody empty, and how skewed it is."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.data.dataset import Dataset, labels, size
from fedloru.data.partition import Partition, digest, listed
from fedloru.errors import PartitionError


class Audit(NamedTuple):
    """What a sound partition looks like; all but ``unused`` and ``hash`` describe training examples."""

    clients: int
    examples: int
    unused: int
    """Training examples of the data set that are on no client, neither to train nor to test."""
    sizes: tuple[int, float, int]
    """Examples of a client: the least, the median, the most."""
    skew: float
    """Mean total-variation distance between the classes of a client and those of the data set, from 0 to 1."""
    classes: float
    """Mean number of classes on a client."""
    hash: str
    counts: Tensor
    """(K, classes) int64: examples of each class on each client; one column where examples have no class."""
    tokens: tuple[int, float, int] | None = None
    """Tokens of a client's texts: the least, the median, the most."""


def audit(dataset: Dataset, partition: Partition, min_examples: int = 1, allow_unused: bool = False) -> Audit:
    """Describe ``partition``, or refuse it.

    ``min_examples`` is the least a client may hold, to train and to test together; ``allow_unused`` accepts
    examples on no client.

    Raises:
        PartitionError: it is not sound; all its problems are listed, with the clients.
    """
    rows = size(dataset.train)
    problems = list(_problems(partition, rows, min_examples, allow_unused))
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise PartitionError(f"the {partition.scheme} partition of {dataset.name!r} is not sound:\n{lines}")
    sizes = [len(own) for own in partition.train]
    length = dataset.train.get("length")
    counts = _counts(dataset, partition.train)
    return Audit(
        clients=len(sizes),
        examples=sum(sizes),
        unused=rows - sum(len(own) for own in partition.train + partition.test),
        sizes=_spread(sizes),
        skew=_skew(dataset, counts),
        classes=float((counts > 0).sum(1).double().mean()),
        hash=digest(partition),
        counts=counts,
        tokens=None if length is None else _spread([int(length[own].sum()) for own in partition.train]),
    )


def _spread(sizes: list[int]) -> tuple[int, float, int]:
    return min(sizes), float(median(sizes)), max(sizes)


def _problems(partition: Partition, rows: int, min_examples: int, allow_unused: bool) -> Iterator[str]:
    clients = len(partition.train)
    if not clients:
        yield "it has no clients"
        return
    if len(partition.test) not in (0, clients):
        yield f"{clients} clients train, but {len(partition.test)} test; give every client a test set, or none"
    held, owner = _holdings(partition)
    inside = (held >= 0) & (held < rows)
    times = torch.bincount(held[inside], minlength=rows)
    yield from _outside(held[~inside], owner[~inside], rows)
    yield from _twice(held[inside], owner[inside], times)
    if not allow_unused and (lost := _where(times == 0)):
        yield f"{len(lost)} examples are on no client (rows {listed(lost)}); set allow_unused if that is meant"
    yield from _small(partition, torch.bincount(owner, minlength=clients), min_examples)


def _outside(held: Tensor, owner: Tensor, rows: int) -> Iterator[str]:
    if len(held):
        clients = sorted(set(owner.tolist()))
        yield (
            f"rows {listed(sorted(set(held.tolist())))} on clients {listed(clients)} are not among 0 to {rows - 1}; "
            "the partition belongs to other data"
        )


def _twice(held: Tensor, owner: Tensor, times: Tensor) -> Iterator[str]:
    if rows := _where(times > 1):
        clients = sorted(set(owner[times[held] > 1].tolist()))
        yield (
            f"{len(rows)} examples are given out more than once (rows {listed(rows)}), on clients {listed(clients)}; "
            "give each to one client, to train or to test"
        )


def _small(partition: Partition, sizes: Tensor, min_examples: int) -> Iterator[str]:
    if empty := [client for client, rows in enumerate(partition.train) if not len(rows)]:
        yield f"clients {listed(empty)} have nothing to train on; leave them out, or use fewer clients"
    if small := _where(sizes < min_examples):
        yield f"clients {listed(small)} have fewer than {min_examples} examples; lower min_examples, or merge clients"


def _where(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


def _holdings(partition: Partition) -> tuple[Tensor, Tensor]:
    """Return every row given out, to train or to test, and the client it is given to."""
    sides = [*enumerate(partition.train), *enumerate(partition.test)]
    owner = torch.tensor([client for client, _ in sides]).repeat_interleave(torch.tensor([len(r) for _, r in sides]))
    return torch.cat([rows for _, rows in sides]), owner


def _counts(dataset: Dataset, train: tuple[Tensor, ...]) -> Tensor:
    y = labels(dataset)
    if y is None:
        return torch.tensor([[len(rows)] for rows in train])
    width = len(dataset.classes)
    owner = torch.arange(len(train)).repeat_interleave(torch.tensor([len(rows) for rows in train]))
    return torch.bincount(owner * width + y[torch.cat(train)], minlength=len(train) * width).view(-1, width)


def _skew(dataset: Dataset, counts: Tensor) -> float:
    y = labels(dataset)
    if y is None:
        return 0.0
    everyone = torch.bincount(y, minlength=len(dataset.classes)).double() / len(y)
    each = counts.double() / counts.sum(1, keepdim=True)
    return float((each - everyone).abs().sum(1).mean() / 2)
