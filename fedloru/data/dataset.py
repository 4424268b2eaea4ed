"""What a data set is: tensors to train on, tensors to test on, and what is known about the training examples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Examples = dict[str, Tensor]
"""Tensors with one row an example. Images: ``x`` (N, C, H, W) float32, normalised, and ``y`` (N,) int64.
Vectors: ``x`` (N, d) float32 and ``y`` (N,) int64. Texts: ``input_ids`` (N, T) int64, padded on the right, of which
the first ``length`` (N,) int64 are real; for a causal model ``labels`` (N, T) int64, not shifted, −100 where there is
no loss, and for a classifier ``y`` (N,) int64."""


class Dataset(NamedTuple):
    """A data set in memory; ``columns`` are natural keys of the training examples, such as speaker or hospital.

    ``notes`` count what reading it came to, such as the tokens of texts that were cut.
    """

    name: str
    train: Examples
    test: Examples
    classes: tuple[str, ...]
    columns: dict[str, tuple[str, ...]] = {}
    notes: dict[str, int] = {}


def size(examples: Examples) -> int:
    """Return the number of examples."""
    return len(next(iter(examples.values())))


def by_length(examples: Examples, *, longest_first: bool = True) -> Tensor:
    """Return all rows, (N,), in the order of their lengths; in their own where examples have none."""
    if "length" in examples:
        return examples["length"].argsort(descending=longest_first, stable=True)
    return torch.arange(size(examples))


def labels(dataset: Dataset) -> Tensor | None:
    """Return the class of every training example, (N,) int64, or None where examples have no single class."""
    y = dataset.train.get("y")
    return y if y is not None and y.ndim == 1 and dataset.classes else None
