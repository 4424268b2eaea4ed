"""Partitions: which client holds which training examples, and how a partition is written to and read from JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru.errors import PartitionError
from fedloru.reading import read_json


class Partition(NamedTuple):
    """Rows of the training examples each client holds, int64 and sorted; ``test`` is () without client test sets."""

    scheme: str
    seed: int
    train: tuple[Tensor, ...]
    test: tuple[Tensor, ...]
    settings: dict[str, Any]


def digest(partition: Partition) -> str:
    """Return a hash of the whole assignment: the training rows and the test rows of every client."""
    h = hashlib.blake2b(digest_size=16)
    for part in (partition.train, partition.test):
        h.update(repr([len(rows) for rows in part]).encode())
        h.update(torch.cat([*part, torch.empty(0, dtype=torch.int64)]).numpy().astype("<i8").tobytes())
    return h.hexdigest()


def table(partition: Partition) -> dict[str, Any]:
    """Return ``partition`` as a table for JSON, including its hash; ``load`` reads it and ignores other keys."""
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
        PartitionError: the file is missing or damaged, or its rows do not match its hash.
    """
    try:
        document = read_json(path, dict)
        train, test = (
            tuple(torch.tensor(rows, dtype=torch.int64) for rows in document[key]) for key in ("train", "test")
        )
        partition = Partition(document["scheme"], document["seed"], train, test, document["settings"])
        expected = document["hash"]
    except FileNotFoundError as error:
        raise PartitionError(f"there is no partition file {path}; create the partition again") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise PartitionError(f"{path} is not a partition file, or is damaged ({error}); create it again") from error
    if digest(partition) != expected:
        raise PartitionError(
            f"{path} was changed: its rows have the hash {digest(partition)}, expected {expected}; create it again"
        )
    return partition


def _lists(part: Sequence[Tensor]) -> list[list[int]]:
    return [rows.tolist() for rows in part]
