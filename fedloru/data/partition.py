"""Who holds which example, as a value, as a table for JSON, and read from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru.errors import PartitionError


class Partition(NamedTuple):
    """Rows of the training examples of each client, int64 and sorted; ``test`` is () without a split per client."""

    scheme: str
    seed: int
    train: tuple[Tensor, ...]
    test: tuple[Tensor, ...]
    settings: dict[str, Any]


def digest(partition: Partition) -> str:
    """Return a hash of the whole assignment: which rows each client trains on and which it tests on."""
    h = hashlib.blake2b(digest_size=16)
    for side in (partition.train, partition.test):
        h.update(repr([len(rows) for rows in side]).encode())
        h.update(torch.cat([*side, torch.empty(0, dtype=torch.int64)]).numpy().astype("<i8").tobytes())
    return h.hexdigest()


def table(partition: Partition) -> dict[str, Any]:
    """Return ``partition`` as a table for JSON, with its hash inside; ``load`` reads it, whatever stands beside it."""
    return {
        "scheme": partition.scheme,
        "seed": partition.seed,
        "settings": partition.settings,
        "train": _lists(partition.train),
        "test": _lists(partition.test),
        "hash": digest(partition),
    }


def load(path: Path) -> Partition:
    """Read a ``table`` from a JSON file.

    Raises:
        PartitionError: the file is missing or damaged, or its rows do not have the hash it names.
    """
    try:
        document = json.loads(path.read_bytes())
        sides = [tuple(torch.tensor(rows, dtype=torch.int64) for rows in document[side]) for side in ("train", "test")]
        partition = Partition(document["scheme"], document["seed"], sides[0], sides[1], document["settings"])
        expected = document["hash"]
    except FileNotFoundError as error:
        raise PartitionError(f"there is no partition file {path}; make the partition anew") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise PartitionError(f"{path} is not a partition file, or is damaged ({error}); make it anew") from error
    if digest(partition) != expected:
        raise PartitionError(f"{path} was changed: its rows hash to {digest(partition)}, not {expected}; make it anew")
    return partition


def listed(clients: Sequence[int]) -> str:
    """Return client ids for a message: the first ten, and how many more there are."""
    more = f" and {len(clients) - 10} more" if len(clients) > 10 else ""
    return ", ".join(str(client) for client in clients[:10]) + more


def _lists(side: Sequence[Tensor]) -> list[list[int]]:
    return [rows.tolist() for rows in side]
