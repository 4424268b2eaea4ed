"""Partitions with seed 0, row by row, and the seed that a configuration passes on.

A change of these rows changes every run. If only a new version of torch, numpy or flwr-datasets changed them, update
the rows here and report it in CHANGELOG.md.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fedloru.config import load, plan
from fedloru.data import Dataset, Partition, dirichlet, iid, natural, shards

SCHEMES: dict[str, Callable[[Dataset], Partition]] = {
    "iid": lambda data: iid(data, 4, 0, test_fraction=0.25),
    "dirichlet": lambda data: dirichlet(data, 4, 1.0, 0, test_fraction=0.25),
    "shards": lambda data: shards(data, 4, 2, 0, test_fraction=0.25),
    "natural": lambda data: natural(data, "group", 0, test_fraction=0.25),
}

TRAIN = {
    "iid": [
        [6, 10, 13, 19, 31, 32, 38, 39],
        [5, 14, 15, 18, 26, 27, 30, 37],
        [2, 3, 7, 8, 12, 16, 29, 34],
        [0, 9, 11, 21, 24, 25, 28, 35],
    ],
    "dirichlet": [
        [10, 22, 31, 32],
        [4, 8, 12, 16, 18, 20, 30, 38, 39],
        [14, 28, 37],
        [0, 1, 2, 3, 5, 7, 11, 21, 24, 25, 27, 29, 33, 36],
    ],
    "shards": [
        [6, 8, 10, 12, 22, 30, 32, 38],
        [5, 13, 17, 23, 29, 31, 37, 39],
        [2, 14, 18, 20, 24, 26, 34, 36],
        [1, 3, 7, 9, 11, 15, 21, 33],
    ],
    "natural": [
        [0, 5, 10, 20, 25, 35],
        [1, 6, 11, 16, 26, 31],
        [2, 12, 17, 27, 32, 37],
        [8, 13, 23, 28, 33, 38],
        [4, 19, 24, 29, 34, 39],
    ],
}

TEST = {
    "iid": [[4, 22], [17, 23], [1, 20], [33, 36]],
    "dirichlet": [[6], [13, 19, 26], [23], [9, 15, 17, 34, 35]],
    "shards": [[4, 16], [19, 27], [0, 28], [25, 35]],
    "natural": [[15, 30], [21, 36], [7, 22], [3, 18], [9, 14]],
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_rows_of_seed_0(scheme: str) -> None:
    """40 examples of 4 classes, in 5 groups."""
    examples = {"x": torch.zeros(40, 1), "y": torch.arange(40) % 4}
    groups = tuple(f"g{row % 5}" for row in range(40))
    partition = SCHEMES[scheme](Dataset("toy", examples, examples, tuple("0123"), {"group": groups}))
    assert partition.seed == 0
    assert [rows.tolist() for rows in partition.train] == TRAIN[scheme]
    assert [rows.tolist() for rows in partition.test] == TEST[scheme]


@pytest.mark.parametrize(
    ("settings", "seed", "first_rows"),
    [
        ([], 0, [21, 22, 28, 31, 32, 34, 35, 47]),
        (["partition.seed=7"], 7, [6, 11, 13, 20, 26, 28, 33, 68]),
        (["seed=5"], 5, [16, 25, 26, 30, 38, 44, 45, 55]),
    ],
)
def test_the_seed_of_a_configured_partition(settings: list[str], seed: int, first_rows: list[int]) -> None:
    made = plan(load("small", settings))
    expected = dirichlet(made.dataset, 10, 0.5, seed)
    assert made.partition.seed == seed
    assert made.partition.train[0][:8].tolist() == first_rows
    assert all(torch.equal(rows, own) for rows, own in zip(expected.train, made.partition.train, strict=True))
