"""Build a ``Dataset`` from the rows of a source: split them, map labels to class indices, and normalize.

Pixels are standardized per channel with the mean and standard deviation of the training images; dividing them by 255
first would make no difference. The statistics are summed in float64, which is exact for 8-bit pixels, so they are
bitwise identical on every machine and with any number of threads.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloru.data.dataset import Dataset
from fedloru.data.raw import Raw, Rows
from fedloru.errors import DataError
from fedloru.rng import gen


def build(name: str, raw: Raw, *, test_fraction: float, seed: int) -> Dataset:
    """Build a data set from ``raw``, holding out ``test_fraction`` of each class if the source has no test set.

    Raises:
        DataError: the rows, labels or shapes cannot be used.
    """
    _check(name, raw.train)
    train, test = split(raw.train, test_fraction, seed) if raw.test is None else (raw.train, raw.test)
    _check(f"the test set of {name}", test)
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(
            f"{name}: training examples have shape {tuple(train.x.shape[1:])}, but test examples have shape "
            f"{tuple(test.x.shape[1:])}; resize one of them"
        )
    y, y_test, classes = numbers(name, train.labels, test.labels, raw.classes)
    x, x_test = normalise(train.x, test.x)
    return Dataset(name, {"x": x, "y": y}, {"x": x_test, "y": y_test}, classes, train.columns, remarks=raw.remarks)


def split(rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Hold out ``fraction`` of each class.

    Raises:
        DataError: the fraction is not between 0 and 1, or is so small that nothing is held out.
    """
    held = held_out(rows.labels, fraction, seed)
    return _take(rows, ~held), _take(rows, held)


def held_out(groups: NDArray[Any], fraction: float, seed: int) -> Tensor:
    """Return a mask (N,) bool of the rows to hold out: ``fraction`` of each group, drawn from (seed, "split").

    ``groups`` (N,) are integers or strings. At least one row of every group is kept.

    Raises:
        DataError: the fraction is not between 0 and 1, or is so small that nothing is held out.
    """
    if not 0 < fraction < 1:
        raise DataError(
            f"test_fraction must be between 0 and 1, got {fraction}; it is needed because there is no separate test set"
        )
    _, group = np.unique(groups, return_inverse=True)
    order = torch.randperm(len(group), generator=gen(seed, "split"))
    drawn = torch.from_numpy(group)[order]
    held = torch.zeros(len(group), dtype=torch.bool)
    for label in range(int(drawn.max()) + 1):
        members = order[drawn == label]
        held[members[: min(round(fraction * len(members)), len(members) - 1)]] = True
    if not held.any():
        raise DataError(
            f"test_fraction {fraction} holds out none of {len(group)} examples; raise it, or provide a test set"
        )
    return held


def normalise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``train`` and ``test`` in float32, standardized along axis 1 (channels or features) by ``train``."""
    moments = [_moments(train[:, channel]) for channel in range(train.shape[1])]
    shape = (1, -1, *(1 for _ in train.shape[2:]))
    mean, std = (torch.tensor(values, dtype=torch.float32).view(shape) for values in zip(*moments, strict=True))
    train, test = (x.to(torch.float32, copy=True).sub_(mean).div_(std) for x in (train, test))
    return train, test


def _moments(values: Tensor) -> tuple[float, float]:
    flat = values.flatten().to(torch.float64)
    mean = float(flat.sum()) / len(flat)
    variance = float(flat.dot(flat)) / len(flat) - mean * mean
    # A constant channel, or one whose variance is lost to rounding, is not divided by a tiny number.
    return mean, variance**0.5 if variance > 1e-12 * mean * mean else 1.0


def _take(rows: Rows, mask: Tensor) -> Rows:
    kept = mask.nonzero().squeeze(1)
    columns = {name: tuple(values[row] for row in kept.tolist()) for name, values in rows.columns.items()}
    return Rows(rows.x[kept], rows.labels[kept.numpy()], columns)


def _check(name: str, rows: Rows) -> None:
    if not len(rows.labels):
        raise DataError(f"{name} has no examples")
    if len(rows.x) != len(rows.labels):
        raise DataError(f"{name} has {len(rows.x)} examples, but {len(rows.labels)} labels; give one label per example")
    check_labels(name, rows.labels)
    if rows.x.is_floating_point() and not torch.isfinite(rows.x).all():
        invalid = (~torch.isfinite(rows.x.flatten(1)).all(1)).nonzero()
        raise DataError(
            f"{name}: {len(invalid)} examples have values that are not finite, the first in row {int(invalid[0])}; "
            "fix or drop them"
        )


def check_labels(name: str, labels: NDArray[Any]) -> None:
    """Check that labels (N,) are integers or strings.

    Raises:
        DataError: they are neither.
    """
    if labels.dtype.kind not in "iubU":
        raise DataError(f"{name}: labels must be integers or strings, got {labels.dtype}")


def numbers(
    name: str, train: NDArray[Any], test: NDArray[Any], classes: tuple[str, ...] | None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return the class indices of the training and of the test labels, each (N,), and the class names.

    Integer labels are indices into ``classes``, strings are names in it. If ``classes`` is None, the classes are the
    sorted labels of ``train``.

    Raises:
        DataError: a label is not among the classes, or only test examples have it.
    """
    if classes is None:
        values = np.unique(train).tolist()
    else:
        values = list(range(len(classes))) if train.dtype.kind in "iu" else list(classes)
    index = {value: position for position, value in enumerate(values)}
    _check_known(f"{name} has labels that are not among its {len(values)} classes", train, index.keys())
    _check_known(f"{name} has test labels that no training example has", test, set(train.tolist()))
    y, y_test = (torch.tensor([index[label] for label in labels.tolist()]) for labels in (train, test))
    return y, y_test, classes or tuple(str(value) for value in values)


def _check_known(problem: str, labels: NDArray[Any], known: Container[Any]) -> None:
    unknown = sorted({label for label in labels.tolist() if label not in known}, key=str)
    if unknown:
        shown = ", ".join(repr(label) for label in unknown[:10]) + (", …" if len(unknown) > 10 else "")
        raise DataError(f"{problem}: {shown}; check the label column, or drop these examples")
