"""Data sets: training and test examples as tensors, class names, and columns of the training examples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Examples = dict[str, Tensor]
"""Tensors with one row per example.

Images: ``x`` (N, C, H, W) float32, normalized, and ``y`` (N,) int64.
Vectors: ``x`` (N, d) float32 and ``y`` (N,) int64.
Texts: ``input_ids`` (N, T) int64, padded on the right, and ``length`` (N,) int64, the number of tokens that are not
padding; for a causal model also ``labels`` (N, T) int64, not shifted, −100 where no loss is computed, and for a
classifier ``y`` (N,) int64.
"""


class Dataset(NamedTuple):
    """A data set in memory.

    ``columns`` hold one value per training example, such as the speaker or the hospital, for natural partitions.
    ``notes`` count what happened when the data was read, such as how many tokens were cut from long texts.
    ``remarks`` are sentences about how the data was read that its user should know, such as which files were not read.
    The command line prints them, and the page of a run shows them.
    """

    name: str
    train: Examples
    test: Examples
    classes: tuple[str, ...]
    columns: dict[str, tuple[str, ...]] = {}
    notes: dict[str, int] = {}
    remarks: tuple[str, ...] = ()


def size(examples: Examples) -> int:
    """Return the number of examples."""
    return len(next(iter(examples.values())))


def by_length(examples: Examples, *, longest_first: bool = True) -> Tensor:
    """Return all rows (N,) sorted by length, or in the given order if examples have no length."""
    if "length" in examples:
        return examples["length"].argsort(descending=longest_first, stable=True)
    return torch.arange(size(examples))


def labels(dataset: Dataset) -> Tensor | None:
    """Return the class of every training example, (N,) int64, or None if examples have no single class."""
    y = dataset.train.get("y")
    return y if y is not None and y.ndim == 1 and dataset.classes else None
