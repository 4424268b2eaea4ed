"""Data sets: training and test examples as tensors, class names, and columns of the training examples."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru.errors import DataError

HOW = (
    "load it with fedloru.data.load, or pass tensors, as in Dataset('mine', train={'x': x, 'y': y}, "
    "test={'x': x_test, 'y': y_test}, classes=('cat', 'dog'))"
)

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
    """

    name: str
    train: Examples
    test: Examples
    classes: tuple[str, ...]
    columns: dict[str, tuple[str, ...]] = {}
    notes: dict[str, int] = {}


def dataset_problem(dataset: Any) -> str | None:
    """Return what to do if ``dataset`` is not a ``Dataset`` of tensors, or None if it is one."""
    if not isinstance(dataset, Dataset):
        return f"the data is a {type(dataset).__name__}, expected a fedloru.data.Dataset: {HOW}"
    parts: dict[str, Any] = {"train": dataset.train, "test": dataset.test}
    for name, examples in parts.items():
        if not isinstance(examples, dict):
            return f"the {name} examples are a {type(examples).__name__}, expected a dict of tensors: {HOW}"
        if other := [key for key, value in examples.items() if not isinstance(value, Tensor)]:
            found = type(examples[other[0]]).__name__
            return f"{other[0]!r} of the {name} examples is a {found}, expected a tensor: use torch.as_tensor"
    return None


def check_dataset(dataset: Any) -> None:
    """Check that ``dataset`` is a ``Dataset`` of tensors.

    Raises:
        DataError: it is something else, such as a DataLoader.
    """
    if problem := dataset_problem(dataset):
        raise DataError(problem)


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
