"""Partition schemes: IID, Dirichlet, shards and natural keys. Dirichlet and shards use partitioners of flwr-datasets.

A scheme raises an error if it cannot make the partition; ``audit`` checks the result.

Args:
    dataset: the data set, whose training examples are partitioned.
    clients: the number of clients.
    seed: draws the partition, and the clients' test sets.
    min_examples: examples that every client must have, training and test together.
    test_fraction: fraction of each client's examples that is held out as its own test set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedloru.data.client_split import finished
from fedloru.data.dataset import Dataset, check_dataset, labels, size
from fedloru.data.partition import Partition
from fedloru.data.partitioners import assign, partitioners
from fedloru.data.ragged import Ragged
from fedloru.data.values import keys
from fedloru.errors import PartitionError, choices
from fedloru.rng import derive, gen
from fedloru.settings.types import Count, Flag, Positive, Share, Text, Whole

MAX_DRAWS, MAX_TOO_SMALL = 10, 20
"""How often Dirichlet shares are drawn, and with how many clients below ``min_examples`` drawing again is pointless: if
n are expected, a draw has none with probability near e⁻ⁿ. The partitioner's own 11 tries take 14 s for 10,000 clients.
"""


def iid(
    dataset: Dataset, clients: Count, seed: Whole = 0, *, min_examples: Count = 1, test_fraction: Share = 0.0
) -> Partition:
    """Assign all examples at random, the same number to each client (±1).

    Raises:
        PartitionError: there are too few examples.
    """
    order = _shuffled(dataset, clients, min_examples, seed)
    # The same cuts as flwr-datasets' IidPartitioner, which takes 0.5 ms per client: 5 s for 10,000 clients.
    least, more = divmod(len(order), clients)
    made = Ragged.sized(order, least + (torch.arange(clients) < more).long())
    return finished("iid", seed, made, {"clients": clients}, min_examples, test_fraction)


def dirichlet(
    dataset: Dataset,
    clients: Count,
    alpha: Positive,
    seed: Whole = 0,
    *,
    self_balancing: Flag = False,
    min_examples: Count = 1,
    test_fraction: Share = 0.0,
) -> Partition:
    """Partition with label skew: the clients' shares of each class are drawn from Dirichlet(α, …, α).

    This is the variant of Yurochkin et al. 2019 (arXiv 1905.12022) as implemented by flwr-datasets'
    DirichletPartitioner.

    Args:
        alpha: the skew: 0.1 is strong, 100 almost none.
        self_balancing: whether a client with more than the average number of examples gets none of the remaining
            classes.

    Raises:
        PartitionError: alpha is not positive, or no draw gives every client ``min_examples``.
        MissingExtraError: flwr-datasets is not installed.
    """
    if not 0 < alpha < math.inf:
        raise PartitionError(f"alpha must be above 0 and finite, got {alpha}; 0.1 is a strong skew, 100 almost none")
    order = _shuffled(dataset, clients, min_examples, seed)
    y = _labels(dataset, "dirichlet")[order].tolist()
    settings = {"clients": clients, "alpha": alpha, "self_balancing": self_balancing}
    for draw in range(MAX_DRAWS):
        positions = _draw_dirichlet(y, clients, alpha, self_balancing, derive(seed, "partition", "dirichlet", draw))
        too_few = int((positions.sizes < min_examples).sum())
        if not too_few:
            made = Ragged(order[positions.values], positions.offsets)
            return finished("dirichlet", seed, made, settings, min_examples, test_fraction)
        if too_few > MAX_TOO_SMALL:
            break
    raise PartitionError(
        f"draw {draw + 1} of Dirichlet({alpha:g}) leaves {too_few} of {clients} clients with fewer than {min_examples} "
        f"of {len(y)} examples, and another draw is unlikely to help; raise alpha, or lower clients or min_examples"
    )


def _draw_dirichlet(y: Sequence[int], clients: int, alpha: float, self_balancing: bool, seed: int) -> Ragged:
    available = partitioners("dirichlet")
    try:
        partitioner = available.DirichletPartitioner(clients, "value", float(alpha), 0, self_balancing, False, seed)
        return assign(partitioner, y)
    except FloatingPointError as error:
        raise PartitionError(
            f"self_balancing with alpha {alpha:g} failed: only clients that are already above the average size have a "
            "share of some class; raise alpha, or turn self_balancing off"
        ) from error


def shards(
    dataset: Dataset,
    clients: Count,
    classes_per_client: Count,
    seed: Whole = 0,
    *,
    allow_unused: Flag = False,
    min_examples: Count = 1,
    test_fraction: Share = 0.0,
) -> Partition:
    """Give each client one shard of each of ``classes_per_client`` classes; the shards of a class have equal size.

    The first class of client k is k modulo the number of classes, the others are drawn at random (Li et al. 2021,
    arXiv 2102.02079; flwr-datasets' PathologicalPartitioner).

    Args:
        classes_per_client: the number of classes of a client.
        allow_unused: whether classes may belong to no client, as happens with fewer clients than classes.

    Raises:
        PartitionError: there are fewer than ``classes_per_client`` classes, a class has fewer examples than shards,
            or classes are unused.
        MissingExtraError: flwr-datasets is not installed.
    """
    order = _shuffled(dataset, clients, min_examples, seed)
    y = _labels(dataset, "shards")[order]
    present = [count for count in torch.bincount(y).tolist() if count]
    if not 1 <= classes_per_client <= len(present):
        raise PartitionError(f"classes_per_client must be 1 to {len(present)}, got {classes_per_client}")
    partitioner = partitioners("shards").PathologicalPartitioner(
        clients, "value", classes_per_client, "first-deterministic", False, derive(seed, "partition", "shards")
    )
    try:
        positions = assign(partitioner, y.tolist())
    except ValueError as error:
        raise PartitionError(
            f"{clients} clients with {classes_per_client} classes each need more shards than some class has examples "
            f"(the smallest has {min(present)}); lower clients or classes_per_client"
        ) from error
    unused = len(y) - len(positions.values)
    if unused and not allow_unused:
        raise PartitionError(
            f"{clients} clients with {classes_per_client} classes each leave {unused} examples (whole classes) unused; "
            f"use at least {len(present)} clients, or set allow_unused"
        )
    settings = {"clients": clients, "classes_per_client": classes_per_client, "allow_unused": allow_unused}
    made = Ragged(order[positions.values], positions.offsets)
    return finished("shards", seed, made, settings, min_examples, test_fraction)


def natural(
    dataset: Dataset,
    key: Text,
    seed: Whole = 0,
    *,
    allow_unused: Flag = False,
    min_examples: Count = 1,
    test_fraction: Share = 0.0,
) -> Partition:
    """Make one client per value of the column ``key``, in sorted order of the values, which are the clients' names.

    ``seed`` only draws the client test sets.

    Args:
        key: the column that identifies clients, such as speaker or hospital; it is kept even if `data.columns` does not
            list it.
        allow_unused: whether clients with fewer than min_examples examples are dropped.

    Raises:
        PartitionError: there is no column ``key``, or a client is too small.
        DataError: a value of the column is missing or not exact, such as a floating-point number.
    """
    check_dataset(dataset)
    if key not in dataset.columns:
        raise PartitionError(
            f"the data set {dataset.name!r} has no column {key!r} to partition by{choices(key, dataset.columns)}. "
            "List the column in data.columns to keep it"
        )
    values = keys(dataset.columns[key], key, repr(dataset.name))
    names = sorted(set(values))
    owner = {value: client for client, value in enumerate(names)}
    clients = Ragged.grouped(torch.tensor([owner[value] for value in values]), len(owner))
    large = clients.sizes >= (min_examples if allow_unused else 0)
    kept, names = clients.select(large), [names[client] for client in large.nonzero().flatten().tolist()]
    if not kept:
        raise PartitionError(f"no value of {key!r} has {min_examples} examples; lower min_examples")
    settings = {"key": key, "allow_unused": allow_unused}
    return finished("natural", seed, kept, settings, min_examples, test_fraction, names)


def _shuffled(dataset: Dataset, clients: int, min_examples: int, seed: int) -> Tensor:
    """Return all rows in random order, so that the partition does not depend on the order of the source."""
    check_dataset(dataset)
    rows = size(dataset.train)
    if clients < 1 or clients * min_examples > rows:
        raise PartitionError(
            f"{rows} examples cannot give {clients} clients at least {min_examples} each; "
            f"use 1 to {rows // max(min_examples, 1)} clients"
        )
    return torch.randperm(rows, generator=gen(seed, "partition"))


def _labels(dataset: Dataset, scheme: str) -> Tensor:
    check_dataset(dataset)
    y = labels(dataset)
    if y is None and dataset.task == "regression":
        raise PartitionError(
            f"the scheme {scheme!r} needs one class per example, but {dataset.name!r} has targets of a regression, "
            "which are numbers: use 'iid', or 'natural' with a column that says whose example it is"
        )
    if y is None:
        raise PartitionError(f"the scheme {scheme!r} needs one class per example, but {dataset.name!r} has none")
    return y
