"""The examples of each class on each client, without a table of all clients and classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class ClassCounts(Sequence[list[int]]):
    """A sequence of K lists: the numbers of examples of client k by class.

    Args:
        labels: the class of every example, client by client, (N,).
        sizes: the number of examples of each client, (K,).
        classes: the number of classes.

    Raises:
        ValueError: the arrays do not fit each other.
    """

    def __init__(self, labels: Ints, sizes: Ints, classes: int) -> None:
        if labels.ndim != 1 or sizes.ndim != 1 or (sizes < 0).any() or sizes.sum() != len(labels):
            raise ValueError("its labels do not fit the sizes of its clients")
        if not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(f"it has labels of other than its {classes} classes")
        self.labels, self.sizes, self.classes = labels, sizes, classes
        self.ends = np.cumsum(sizes)

    @classmethod
    def of(cls, counts: Iterable[Sequence[int]]) -> ClassCounts:
        """Return ``counts``, a list per client, as ``ClassCounts``, and ``ClassCounts`` as they are."""
        if isinstance(counts, ClassCounts):
            return counts
        table = np.asarray(list(counts), dtype=np.int64)
        clients, classes = table.shape
        labels = np.tile(np.arange(classes), clients).repeat(table.reshape(-1))
        return cls(labels, table.sum(1), classes)

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.sizes)

    def __getitem__(self, client: Any) -> Any:
        """Return the examples of a client by class."""
        end = self.ends[client]
        found: list[int] = np.bincount(self.labels[end - self.sizes[client] : end], minlength=self.classes).tolist()
        return found

    def by_top_class(self) -> Ints:
        """Return all clients, sorted by their most frequent class, then by its share, the largest first."""
        owners = np.arange(len(self)).repeat(self.sizes)
        pairs, uses = np.unique(owners * self.classes + self.labels, return_counts=True)
        owner, label = np.divmod(pairs, self.classes)
        order = np.lexsort((label, -uses, owner))
        owner, first = np.unique(owner[order], return_index=True)
        best = order[first]
        top, share = np.zeros(len(self), np.int64), np.zeros(len(self))
        top[owner], share[owner] = label[best], uses[best] / self.sizes[owner]
        return np.lexsort((-share, top))
