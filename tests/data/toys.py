"""A data set of ten classes and seven groups, and a partition of it by each scheme."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fedloru.data import Dataset, Partition, dirichlet, iid, natural, shards

MADE: dict[str, Callable[[Dataset], Partition]] = {
    "iid": lambda data: iid(data, 10, 1),
    "dirichlet": lambda data: dirichlet(data, 10, 0.5, 1),
    "shards": lambda data: shards(data, 10, 2, 1),
    "natural": lambda data: natural(data, "group", 1),
}


def toy(rows: int, classes: int = 10) -> Dataset:
    y = torch.arange(rows) % classes
    names = tuple(str(label) for label in range(classes))
    groups = tuple(f"g{row % 7}" for row in range(rows))
    data = {"x": torch.zeros(rows, 1), "y": y}
    return Dataset("toy", data, data, names, {"group": groups})


def same(x: Partition, y: Partition) -> bool:
    pairs = zip(x.train + x.test, y.train + y.test, strict=True)
    return x[:2] == y[:2] and x.settings == y.settings and all(torch.equal(a, b) for a, b in pairs)
