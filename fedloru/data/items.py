"""Map-style torch data sets, which yield pairs of an example and a label, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedloru.advice import got, hint
from fedloru.data.arrays import stacked
from fedloru.data.memory import check_size
from fedloru.errors import DataError, traced


def read(dataset: Any, what: str) -> tuple[Tensor, Any]:
    """Return the examples and the labels of a map-style data set, read one by one.

    Raises:
        DataError: it has no length, or fails; or its items are not pairs of tensors of one shape and labels.
    """
    if not all(hasattr(dataset, method) for method in ("__getitem__", "__len__")) or isinstance(dataset, Tensor):
        endless = "it has no length, so read it into a list first: " if hasattr(dataset, "__iter__") else ""
        raise DataError(
            f"{what} is {got(dataset)}, expected a map-style torch Dataset of pairs (x, y){hint(dataset, endless)}"
        )
    try:
        count = len(dataset)
    except Exception as error:  # user code may raise anything
        raise DataError(f"{what} has no length: {traced(error)}; fix the data set") from error
    if not count:
        raise DataError(f"{what} has no examples")
    examples, y = torch.empty(0), []
    for row in range(count):
        x, label = _pair(dataset, row, what)
        if not row:
            check_size(count * x.numel(), x.element_size(), f"{what}: {count:,} examples of shape {tuple(x.shape)}")
            examples = torch.empty((count, *x.shape), dtype=x.dtype)
        if x.shape != examples.shape[1:] or x.dtype != examples.dtype:
            raise DataError(
                f"{what}[{row}] is {x.dtype} of shape {tuple(x.shape)}, but {what}[0] {examples.dtype} of shape "
                f"{tuple(examples.shape[1:])}: give all examples one shape, such as by a transform"
            )
        examples[row] = x
        y.append(label)
    return examples, stacked(y, f"the labels of {what}") if isinstance(y[0], Tensor) else y


def _pair(dataset: Any, row: int, what: str) -> tuple[Tensor, Any]:
    try:
        item = dataset[row]
    except Exception as error:  # user code may raise anything
        raise DataError(f"{what}[{row}] failed: {traced(error)}; fix the data set") from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"{what}[{row}] is {got(item)}, expected a pair (x, y) of an example and its label")
    x, label = item
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
        x = torch.from_numpy(np.ascontiguousarray(x))
    if not isinstance(x, Tensor):
        raise DataError(
            f"{what}[{row}] has the example {got(x)}, expected a tensor: add a transform, such as torchvision's "
            "ToTensor for images"
        )
    return x.detach().cpu(), label.tolist() if isinstance(label, np.ndarray) and label.ndim == 0 else label
