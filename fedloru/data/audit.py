"""Audit of a partition: every example assigned once, no empty clients, and how skewed the clients are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.data.dataset import Dataset, check_dataset, labels, size
from fedloru.data.partition import Partition, digest
from fedloru.data.ragged import Ragged
from fedloru.errors import PartitionError, counted, listed, quoted


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
    labels: Ragged
    """The class of every example of each client; 0 if examples have no class."""
    columns: int
    """The number of classes; 1 if examples have no class."""
    tokens: tuple[int, float, int] | None = None
    """Tokens per client, for texts: minimum, median, maximum."""
    tokens_of: Tensor | None = None
    """The number of tokens of each client, (K,) int64, for texts."""

    @property
    def counts(self) -> Tensor:
        """The examples per client and class, (K, classes) int64; a single column if examples have no class."""
        each = self.labels.owners * self.columns + self.labels.values
        return torch.bincount(each, minlength=self.clients * self.columns).view(-1, self.columns)

    def first(self, clients: int) -> Tensor:
        """Return the rows of ``counts`` of the first clients."""
        return self._replace(labels=self.labels[:clients], clients=min(clients, self.clients)).counts


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
    check_dataset(dataset)
    total = size(dataset.train)
    problems = list(_problems(partition, total, min_examples, allow_unused))
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise PartitionError(f"the {partition.scheme} partition of {dataset.name!r} is not valid:\n{lines}")
    train, length = partition.train, dataset.train.get("length")
    y = labels(dataset)
    held = Ragged(torch.zeros_like(train.values) if y is None else y.cpu()[train.values], train.offsets)
    columns = 1 if y is None else len(dataset.classes)
    tokens = None if length is None else _sums(length.cpu()[train.values], train)
    skew, classes = _skew(held, y, columns)
    return Audit(
        clients=len(train),
        examples=len(train.values),
        unused=total - len(train.values) - len(partition.test.values),
        sizes=_spread(train.sizes),
        skew=skew,
        classes=classes,
        hash=digest(partition),
        labels=held,
        columns=columns,
        tokens=None if tokens is None else _spread(tokens),
        tokens_of=tokens,
    )


def _spread(sizes: Tensor) -> tuple[int, float, int]:
    ordered, middle = sizes.sort().values, (len(sizes) - 1) // 2
    return int(ordered[0]), float(ordered[[middle, len(sizes) // 2]].double().mean()), int(ordered[-1])


def _sums(values: Tensor, like: Ragged) -> Tensor:
    """Return the sum of the values of each client, (K,); ``values`` (N,) are cut as those of ``like``."""
    return torch.zeros(len(like), dtype=torch.int64).index_add_(0, like.owners, values.to(torch.int64))


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
    yield from _out_of_range(partition, rows[~in_range], owners[~in_range], total)
    yield from _duplicates(partition, rows[in_range], owners[in_range], uses)
    if not allow_unused and (unused := _where(uses == 0)):
        examples = counted(len(unused), "example is", "examples are")
        yield f"{examples} assigned to no client (rows {listed(unused)}); set allow_unused to allow it"
    yield from _too_small(partition, torch.bincount(owners, minlength=clients), min_examples)


def _out_of_range(partition: Partition, rows: Tensor, owners: Tensor, total: int) -> Iterator[str]:
    if len(rows):
        invalid, clients = sorted(set(rows.tolist())), sorted(set(owners.tolist()))
        yield (
            f"rows {listed(invalid)} of clients {_named(partition, clients)} are not in the range 0 to {total - 1}; "
            "the partition was made for other data"
        )


def _duplicates(partition: Partition, rows: Tensor, owners: Tensor, uses: Tensor) -> Iterator[str]:
    if duplicates := _where(uses > 1):
        clients = sorted(set(owners[uses[rows] > 1].tolist()))
        examples = counted(len(duplicates), "example is", "examples are")
        yield (
            f"{examples} assigned more than once (rows {listed(duplicates)}), "
            f"to clients {_named(partition, clients)}; assign each to one client, for training or for testing"
        )


def _too_small(partition: Partition, sizes: Tensor, min_examples: int) -> Iterator[str]:
    if empty := _where(partition.train.sizes == 0):
        yield f"clients {_named(partition, empty)} have no training examples; remove them, or use fewer clients"
    if small := _where(sizes < min_examples):
        named = _named(partition, small)
        yield f"clients {named} have fewer than {min_examples} examples; lower min_examples, or merge clients"


def _named(partition: Partition, clients: list[int]) -> str:
    return listed(clients if partition.names is None else [quoted(partition.names[client]) for client in clients])


def _where(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


def _assignments(partition: Partition) -> tuple[Tensor, Tensor]:
    """Return all assigned rows, for training and for testing, and the client that each is assigned to."""
    train, test = partition.train, partition.test
    return torch.cat([train.values, test.values]), torch.cat([train.owners, test.owners])


def _skew(held: Ragged, y: Tensor | None, columns: int) -> tuple[float, float]:
    """Return the mean distance of the clients' distributions of classes from that of all, and their mean number."""
    owners, sizes = held.owners, held.sizes
    pairs, uses = (owners * columns + held.values).unique(return_counts=True)
    classes = len(pairs) / len(held)
    if y is None:
        return 0.0, classes
    overall = torch.bincount(y.cpu(), minlength=columns).double() / len(y)
    owner, expected = pairs // columns, overall[pairs % columns]
    # Σ|p − q| over all classes is 1 plus the sum of |p − q| − q over those that the client has.
    excess = (uses / sizes[owner].double() - expected).abs() - expected
    return float((len(held) + excess.sum()) / len(held) / 2), classes
