"""How examples come to clients: IID, Dirichlet, shards, natural keys, by the partitioners of flwr-datasets.

In every scheme ``min_examples`` counts what a client holds in all, and ``test_fraction`` of that is held out for the
client's own test set. A scheme refuses what it cannot make; whether the partition is sound is for ``audit`` to say.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedloru.data.dataset import Dataset, labels, size
from fedloru.data.partition import Partition, listed
from fedloru.errors import PartitionError, choices
from fedloru.rng import derive, gen

DRAWS, HOPELESS = 10, 20
"""How often Dirichlet shares are drawn, and how many clients too small in a draw make another not worth while: if n
are expected, none are with probability near e⁻ⁿ. The partitioner's own 11 tries take 14 s for 10,000 clients."""


def iid(
    dataset: Dataset, clients: int, seed: int = 0, *, min_examples: int = 1, test_fraction: float = 0.0
) -> Partition:
    """Deal all examples at random, the same number, give or take 1, to each client.

    Raises:
        PartitionError: there are too few examples.
    """
    order = _shuffled(dataset, clients, min_examples, seed)
    # The cuts of flwr-datasets' IidPartitioner, which hands out one client in 0.5 ms: 5 s for 10,000 clients.
    return _finish("iid", seed, torch.tensor_split(order, clients), {"clients": clients}, min_examples, test_fraction)


def dirichlet(
    dataset: Dataset,
    clients: int,
    alpha: float,
    seed: int = 0,
    *,
    self_balancing: bool = False,
    min_examples: int = 1,
    test_fraction: float = 0.0,
) -> Partition:
    """Skew labels: for each class, the shares of the clients are one draw from Dirichlet(α, …, α) over the clients.

    This is the variant of Yurochkin et al. 2019 (arXiv 1905.12022) as flwr-datasets' DirichletPartitioner has it;
    with ``self_balancing`` a client above the average size gets no more of the classes that follow.

    Raises:
        PartitionError: alpha is not positive, or no draw gives every client ``min_examples``.
    """
    if not 0 < alpha < math.inf:
        raise PartitionError(f"alpha is {alpha}, but must be above 0: 0.1 is a strong skew, 100 almost none")
    order = _shuffled(dataset, clients, min_examples, seed)
    y = _labels(dataset, "dirichlet")[order].tolist()
    settings = {"clients": clients, "alpha": alpha, "self_balancing": self_balancing}
    for draw in range(DRAWS):
        owned = _dirichlet(y, clients, alpha, self_balancing, derive(seed, "partition", "dirichlet", draw))
        small = sum(len(positions) < min_examples for positions in owned)
        if not small:
            return _finish("dirichlet", seed, [order[p] for p in owned], settings, min_examples, test_fraction)
        if small > HOPELESS:
            break
    raise PartitionError(
        f"draw {draw + 1} of Dirichlet({alpha:g}) leaves {small} of {clients} clients with fewer than {min_examples} "
        f"of {len(y)} examples, and another would hardly do better; raise alpha, or lower clients or min_examples"
    )


def _dirichlet(y: Sequence[int], clients: int, alpha: float, self_balancing: bool, seed: int) -> list[Tensor]:
    from flwr_datasets.partitioner import DirichletPartitioner

    try:
        return _assign(DirichletPartitioner(clients, "value", float(alpha), 0, self_balancing, False, seed), y)
    except FloatingPointError as error:
        raise PartitionError(
            f"self_balancing with alpha {alpha:g} came to a class that only clients above the average size have a "
            "share of; raise alpha, or turn self_balancing off"
        ) from error


def shards(
    dataset: Dataset,
    clients: int,
    classes_per_client: int,
    seed: int = 0,
    *,
    allow_unused: bool = False,
    min_examples: int = 1,
    test_fraction: float = 0.0,
) -> Partition:
    """Give each client exactly ``classes_per_client`` classes: one shard of each, all shards of a class of one size.

    The first class of client k is k modulo the number of classes, the others are drawn (Li et al. 2021, arXiv
    2102.02079; PathologicalPartitioner of flwr-datasets). With fewer clients than classes, some classes may be on
    no client; ``allow_unused`` accepts that.

    Raises:
        PartitionError: a client wants more classes than there are, or a class has fewer examples than shards.
    """
    order = _shuffled(dataset, clients, min_examples, seed)
    y = _labels(dataset, "shards")[order]
    present = [count for count in torch.bincount(y).tolist() if count]
    if not 1 <= classes_per_client <= len(present):
        raise PartitionError(f"classes_per_client is {classes_per_client}, but must be 1 to {len(present)}")
    from flwr_datasets.partitioner import PathologicalPartitioner

    partitioner = PathologicalPartitioner(
        clients, "value", classes_per_client, "first-deterministic", False, derive(seed, "partition", "shards")
    )
    try:
        owned = _assign(partitioner, y.tolist())
    except ValueError as error:
        raise PartitionError(
            f"{clients} clients of {classes_per_client} classes need more shards than some class has examples "
            f"(the smallest has {min(present)}); lower clients or classes_per_client"
        ) from error
    lost = len(y) - sum(len(positions) for positions in owned)
    if lost and not allow_unused:
        raise PartitionError(
            f"{clients} clients of {classes_per_client} classes leave {lost} examples, whole classes, on no client; "
            f"use at least {len(present)} clients, or set allow_unused"
        )
    settings = {"clients": clients, "classes_per_client": classes_per_client, "allow_unused": allow_unused}
    return _finish("shards", seed, [order[positions] for positions in owned], settings, min_examples, test_fraction)


def natural(
    dataset: Dataset,
    key: str,
    seed: int = 0,
    *,
    allow_unused: bool = False,
    min_examples: int = 1,
    test_fraction: float = 0.0,
) -> Partition:
    """Make one client of each value of the column ``key``, in the order of the sorted values.

    ``allow_unused`` leaves out values with fewer than ``min_examples`` examples. ``seed`` draws the clients' tests.

    Raises:
        PartitionError: there is no such column, or a client is too small.
    """
    if key not in dataset.columns:
        raise PartitionError(
            f"the data set {dataset.name!r} has no column {key!r} to part it by{choices(key, dataset.columns)}. "
            "Columns are kept when data.columns names them"
        )
    from flwr_datasets.partitioner import NaturalIdPartitioner

    owned = _assign(NaturalIdPartitioner("value"), dataset.columns[key])
    kept = [rows for rows in owned if len(rows) >= min_examples] if allow_unused else owned
    if not kept:
        raise PartitionError(f"no value of {key!r} has {min_examples} examples; lower min_examples")
    return _finish("natural", seed, kept, {"key": key, "allow_unused": allow_unused}, min_examples, test_fraction)


def _shuffled(dataset: Dataset, clients: int, min_examples: int, seed: int) -> Tensor:
    """Return all rows in a random order, so that the order of the source does not decide who gets what."""
    rows = size(dataset.train)
    if clients < 1 or clients * min_examples > rows:
        raise PartitionError(
            f"{rows} examples cannot give {clients} clients at least {min_examples} each; "
            f"use 1 to {rows // max(min_examples, 1)} clients"
        )
    return torch.randperm(rows, generator=gen(seed, "partition"))


def _labels(dataset: Dataset, scheme: str) -> Tensor:
    y = labels(dataset)
    if y is None:
        raise PartitionError(f"the scheme {scheme!r} needs one class an example, which {dataset.name!r} has not")
    return y


def _assign(partitioner: Any, values: Sequence[Any]) -> list[Tensor]:
    """Let flwr-datasets part rows that carry ``values``; returns the rows of each client."""
    import datasets

    partitioner.dataset = datasets.Dataset.from_dict({"value": list(values)})
    quiet = warnings.catch_warnings(action="ignore", category=UserWarning)
    with quiet, redirect_stderr(io.StringIO()), np.errstate(divide="raise", invalid="raise"):
        partitioner.load_partition(0)
    # The table is complete after the first client, while load_partition builds a data set for each in about 1 ms.
    table = partitioner._partition_id_to_indices
    return [torch.from_numpy(np.asarray(table[client], dtype=np.int64)) for client in range(len(table))]


def _finish(
    scheme: str,
    seed: int,
    owned: Sequence[Tensor],
    settings: dict[str, Any],
    min_examples: int,
    test_fraction: float,
) -> Partition:
    _check(owned, min_examples, test_fraction)
    everything = settings | {"min_examples": min_examples, "test_fraction": test_fraction}
    whole = tuple(rows.sort().values for rows in owned)
    if not test_fraction:
        return Partition(scheme, seed, whole, (), everything)
    pairs = [_hold_out(rows, test_fraction, seed, client) for client, rows in enumerate(whole)]
    return Partition(scheme, seed, tuple(train for train, _ in pairs), tuple(test for _, test in pairs), everything)


def _check(owned: Sequence[Tensor], min_examples: int, test_fraction: float) -> None:
    if min_examples < 1 or not 0 <= test_fraction < 1:
        raise PartitionError(
            f"min_examples is {min_examples} and test_fraction {test_fraction}; "
            "min_examples must be at least 1, test_fraction from 0 to below 1"
        )
    small = [client for client, rows in enumerate(owned) if len(rows) < min_examples]
    if small:
        raise PartitionError(
            f"clients with fewer than {min_examples} examples: {listed(small)}; "
            "lower min_examples, use fewer clients, or part the data otherwise"
        )


def _hold_out(rows: Tensor, fraction: float, seed: int, client: int) -> tuple[Tensor, Tensor]:
    """Split a client's rows; both sides get one at least, and a single row is for training."""
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    held = torch.zeros(len(rows), dtype=torch.bool)
    held[torch.randperm(len(rows), generator=gen(seed, "client-split", client))[:count]] = True
    return rows[~held], rows[held]
