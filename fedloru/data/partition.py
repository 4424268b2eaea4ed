"""Partitions: which client holds which training examples, and how a partition is written to and read from files.

``partition.json`` describes the partition, and ``partition.safetensors`` in the same folder has the rows as arrays:
``train`` and ``test`` (N,) int64 are the rows of all clients in sequence, ``train_sizes`` and ``test_sizes`` (K,) the
numbers of rows of each. Earlier versions wrote the rows to ``partition.json``, one list per client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from fedloru.data.ragged import Ragged
from fedloru.errors import PartitionError, quoted
from fedloru.reading import UnreadableError, read_json, read_tensors

SIDES = ("train", "test")


class _Fields(NamedTuple):
    scheme: str
    seed: int
    train: Ragged
    test: Ragged
    settings: dict[str, Any]
    names: tuple[str, ...] | None = None


class Partition(_Fields):
    """Rows of the training examples each client holds, sorted; ``test`` is empty without client test sets.

    ``train`` and ``test`` behave like sequences of int64 tensors, one per client; they are made from any such sequence.
    ``names`` has the name of each client, such as its hospital or its file; None if clients have only numbers.

    Raises:
        PartitionError: the rows of a client are not a vector of integers, or names are not one different text for each
            client.
    """

    __slots__ = ()

    def __new__(  # noqa: D102  # see the class
        cls,
        scheme: str,
        seed: int,
        train: Iterable[Tensor],
        test: Iterable[Tensor],
        settings: dict[str, Any],
        names: Iterable[str] | None = None,
    ) -> Self:
        rows = Ragged.of(train)
        known = None if names is None else _checked_names(names, len(rows))
        return super().__new__(cls, scheme, seed, rows, Ragged.of(test), settings, known)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]  # ``_replace`` calls it
        return cls(*iterable)

    def label(self, client: int) -> str:
        """Return the name of a client, or its number if clients have no names."""
        return str(client) if self.names is None else self.names[client]

    def __repr__(self) -> str:
        """Return the scheme, the number of clients and the sizes of their parts in one line."""
        parts = [f"{_sizes(self.train)} training"] + ([f"{_sizes(self.test)} test"] if self.test else [])
        return f"Partition({self.scheme!r}, {len(self.train):,} clients with {' and '.join(parts)} examples each)"


def _sizes(part: Ragged) -> str:
    """Return the smallest and the largest number of rows of a client, such as "97 to 203"."""
    ends = dict.fromkeys((int(part.sizes.min()), int(part.sizes.max()))) if len(part) else {0: None}
    return " to ".join(f"{size:,}" for size in ends)


def digest(partition: Partition) -> str:
    """Return a hash of the whole assignment: the training rows and the test rows of every client."""
    h = hashlib.blake2b(digest_size=16)
    for part in (partition.train, partition.test):
        h.update(repr(part.sizes.tolist()).encode())
        h.update(part.values.contiguous().numpy().astype("<i8", copy=False).data)
    return h.hexdigest()


def table(partition: Partition) -> dict[str, Any]:
    """Return the description of ``partition`` for JSON, with its hash; ``load`` ignores other keys."""
    return {
        "scheme": partition.scheme,
        "seed": partition.seed,
        "settings": partition.settings,
        "hash": digest(partition),
        **({} if partition.names is None else {"names": list(partition.names)}),
    }


def arrays(partition: Partition) -> dict[str, Tensor]:
    """Return the rows of ``partition`` for a file of tensors; ``load`` ignores other keys."""
    sides = zip(SIDES, (partition.train, partition.test), strict=True)
    return {key: value for name, part in sides for key, value in _arrays(name, part).items()}


def _arrays(name: str, part: Ragged) -> dict[str, Tensor]:
    return {name: part.values.contiguous(), f"{name}_sizes": part.sizes}


def load(path: Path) -> Partition:
    """Read the partition that the JSON file ``path`` describes.

    Raises:
        PartitionError: a file is missing or damaged, or the rows do not match their hash.
    """
    try:
        document = read_json(path, dict)
        train, test = _listed(document) if SIDES[0] in document else _stored(read_tensors(arrays_file(path))[0])
        names = document.get("names")
        partition = Partition(document["scheme"], document["seed"], train, test, document["settings"], names)
        expected = document["hash"]
    except FileNotFoundError as error:
        missing = path if not path.exists() else f"{arrays_file(path)}, which has the rows of {path.name}"
        raise PartitionError(f"there is no partition file {missing}; create the partition again") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, PartitionError) as error:
        raise PartitionError(f"{path} is not a partition file, or is damaged ({error}); create it again") from error
    if digest(partition) != expected:
        raise PartitionError(
            f"{path} was changed: its rows have the hash {digest(partition)}, expected {expected}; create it again"
        )
    return partition


def arrays_file(path: Path) -> Path:
    """Return the file of the rows of the partition that ``path`` describes."""
    return path.with_suffix(".safetensors")


def _checked_names(names: Iterable[Any], clients: int) -> tuple[str, ...]:
    found = (names,) if isinstance(names, str) else tuple(names)
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise PartitionError(f"the name of a client is {quoted(wrong[0])}, expected text")
    if len(found) != clients or len(set(found)) < len(found):
        raise PartitionError(
            f"{len(set(found))} different names are given for {clients} clients; expected one different name for each"
        )
    return found


def _stored(tensors: Mapping[str, Tensor]) -> tuple[Ragged, Ragged]:
    train, test = (_ragged(tensors[name], tensors[f"{name}_sizes"]) for name in SIDES)
    return train, test


def _ragged(values: Tensor, sizes: Tensor) -> Ragged:
    fits = values.dtype == sizes.dtype == torch.int64 and values.dim() == sizes.dim() == 1
    if not fits or bool(((sizes < 0) | (sizes > len(values))).any()) or int(sizes.sum()) != len(values):
        raise UnreadableError("the sizes of its clients do not fit its rows")
    return Ragged.sized(values, sizes)


def _listed(document: Mapping[str, Any]) -> tuple[Ragged, Ragged]:
    train, test = (Ragged.of([torch.tensor(rows, dtype=torch.int64) for rows in document[name]]) for name in SIDES)
    return train, test
