"""What labels are: class labels, or the targets of a regression, which are numbers.

By default, the type of the labels decides: integers and text are classes, and numbers with decimal places are targets.
Whole numbers that are stored as floats may be either, so the user says which.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloru.errors import DataError

Task = Literal["auto", "classification", "regression"]
Kind = Literal["classification", "regression"]

NUMERIC = frozenset("iufb")
"""The kinds of dtypes that may be the targets of a regression."""


def kind_of(name: str, labels: NDArray[Any], task: Task = "auto") -> Kind:
    """Return what ``labels``, (N,) or (N, d), are for ``task``; ``name`` is that of the data set, for messages.

    Raises:
        DataError: they do not fit the task, or they are floats that may be either.
    """
    if task == "regression":
        if labels.dtype.kind not in NUMERIC:
            raise DataError(
                f"{name}: data.task is 'regression', but the labels are text: name a column of numbers, or set "
                "data.task = 'classification'"
            )
        return "regression"
    is_whole = labels.dtype.kind != "f" or bool((np.isfinite(labels) & (labels == np.rint(labels))).all())
    if task == "auto" and not is_whole:
        return "regression"
    if labels.ndim > 1:
        one_hot = len(labels) > 1 and bool(np.isin(labels, (0, 1)).all())
        hint = "for one-hot labels, use y.argmax(1)" if one_hot else "for a regression, set data.task = 'regression'"
        raise DataError(f"{name}: the labels have shape {labels.shape}, expected (N,), one class per example; {hint}")
    if not is_whole:
        wrong = int((labels != np.rint(labels)).argmax())
        raise DataError(
            f"{name}: data.task is 'classification', but the label of row {wrong} is {labels[wrong]}, expected "
            "integers or text"
        )
    if task == "auto" and labels.dtype.kind == "f":
        raise DataError(
            f"{name}: the labels are {labels.dtype} without decimal places, such as {labels[0]}, which may be targets "
            "or the numbers of classes: set data.task (task in Python) to 'regression' or 'classification'"
        )
    return "classification"


def as_classes(labels: NDArray[Any]) -> NDArray[Any]:
    """Return class labels, with whole floats as integers."""
    return labels.astype(np.int64) if labels.dtype.kind == "f" else labels


def as_targets(name: str, labels: NDArray[Any]) -> Tensor:
    """Return numeric ``labels`` as targets in float32, (N,) or (N, d).

    Raises:
        DataError: a target is not finite in float32.
    """
    with np.errstate(over="ignore"):
        y = torch.from_numpy(np.ascontiguousarray(labels.astype(np.float32)))
    if len(wrong := (~y.isfinite().view(len(y), -1).all(1)).nonzero()):
        raise DataError(
            f"{name} has targets that are not finite, or too large for float32, in {len(wrong)} of {len(y)} examples, "
            f"first in row {int(wrong[0])}; fix or drop these examples"
        )
    return y
