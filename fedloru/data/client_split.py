"""The last step of every partition scheme: check the rows of each client, and hold out a test set of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fedloru.data.partition import Partition
from fedloru.data.ragged import Ragged
from fedloru.errors import PartitionError, listed, quoted
from fedloru.rng import gen


def finished(
    scheme: str,
    seed: int,
    clients: Ragged,
    settings: dict[str, Any],
    min_examples: int,
    test_fraction: float,
    names: Sequence[str] | None = None,
) -> Partition:
    """Return the partition of a scheme, with a test set of each client if ``test_fraction`` is not 0.

    Args:
        scheme: the name of the scheme.
        seed: draws the test sets.
        clients: the rows of each client.
        settings: the settings of the scheme, without those that follow.
        min_examples: examples that every client must have, training and test together.
        test_fraction: fraction of each client's examples that is held out.
        names: the names of the clients, if they have any.

    Raises:
        PartitionError: a client has too few examples, or a setting is out of range.
    """
    _check(clients, min_examples, test_fraction, names)
    settings = settings | {"min_examples": min_examples, "test_fraction": test_fraction}
    ordered = clients.ordered()
    train, test = _hold_out(ordered, test_fraction, seed) if test_fraction else (ordered, ())
    return Partition(scheme, seed, train, test, settings, names)


def _check(clients: Ragged, min_examples: int, test_fraction: float, names: Sequence[str] | None) -> None:
    if min_examples < 1 or not 0 <= test_fraction < 1:
        raise PartitionError(
            "min_examples must be at least 1, and test_fraction at least 0 and below 1; "
            f"got min_examples {min_examples} and test_fraction {test_fraction}"
        )
    small = (clients.sizes < min_examples).nonzero().flatten().tolist()
    if small:
        shown = small if names is None else [quoted(names[client]) for client in small]
        raise PartitionError(
            f"clients with fewer than {min_examples} examples: {listed(shown)}; "
            "lower min_examples, use fewer clients, or choose another partition"
        )


def _hold_out(clients: Ragged, fraction: float, seed: int) -> tuple[Ragged, Ragged]:
    """Split the rows of every client into training and test rows, at least one each; a single row is for training."""
    held = torch.zeros(len(clients.values), dtype=torch.bool)
    starts, sizes = clients.offsets.tolist(), clients.sizes.tolist()
    for client, (start, own) in enumerate(zip(starts, sizes, strict=False)):
        if count := min(max(1, round(fraction * own)), own - 1):
            drawn = torch.randperm(own, generator=gen(seed, "client-split", client))[:count]
            held[start + drawn] = True
    return clients.where(~held), clients.where(held)
