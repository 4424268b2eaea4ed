"""From rows as a source gave them to a ``Dataset``: split, number the labels, normalise.

Pixels are standardised per channel with the mean and the standard deviation of the training images; dividing by
255 first would change nothing. The statistics are summed in float64, which is exact for 8-bit pixels, so that they
are the same bits on every machine and number of threads.
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
    """Turn ``raw`` into a data set; ``test_fraction`` of each class is held out if the source has no test set.

    Raises:
        DataError: rows, labels or shapes that cannot be used, all of them named.
    """
    _check(name, raw.train)
    train, test = split(raw.train, test_fraction, seed) if raw.test is None else (raw.train, raw.test)
    _check(f"the test set of {name}", test)
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(
            f"{name}: a training example has shape {tuple(train.x.shape[1:])}, a test example "
            f"{tuple(test.x.shape[1:])}; both must be the same: resize one of them"
        )
    y, y_test, classes = numbers(name, train.labels, test.labels, raw.classes)
    x, x_test = normalise(train.x, test.x)
    return Dataset(name, {"x": x, "y": y}, {"x": x_test, "y": y_test}, classes, train.columns)


def split(rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Hold out ``fraction`` of each class.

    Raises:
        DataError: the fraction is not between 0 and 1, or so small that nothing is held out.
    """
    held = held_out(rows.labels, fraction, seed)
    return _take(rows, ~held), _take(rows, held)


def held_out(groups: NDArray[Any], fraction: float, seed: int) -> Tensor:
    """Return which of N rows to hold out, (N,) bool: ``fraction`` of each group, drawn by (seed, "split").

    ``groups`` (N,) are integers or strings; every group keeps a row.

    Raises:
        DataError: the fraction is not between 0 and 1, or so small that nothing is held out.
    """
    if not 0 < fraction < 1:
        raise DataError(
            f"test_fraction is {fraction}, but must be between 0 and 1: there is no test set to use instead"
        )
    _, group = np.unique(groups, return_inverse=True)
    order = torch.randperm(len(group), generator=gen(seed, "split"))
    drawn = torch.from_numpy(group)[order]
    held = torch.zeros(len(group), dtype=torch.bool)
    for label in range(int(drawn.max()) + 1):
        mine = order[drawn == label]
        held[mine[: min(round(fraction * len(mine)), len(mine) - 1)]] = True
    if not held.any():
        raise DataError(
            f"test_fraction {fraction} holds out none of {len(group)} examples: raise it, or give a test set"
        )
    return held


def normalise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Standardise both along axis 1 (channels or features) with the statistics of ``train``; returns float32."""
    moments = [_moments(train[:, channel]) for channel in range(train.shape[1])]
    shape = (1, -1, *(1 for _ in train.shape[2:]))
    mean, std = (torch.tensor(values, dtype=torch.float32).view(shape) for values in zip(*moments, strict=True))
    first, second = (x.to(torch.float32, copy=True).sub_(mean).div_(std) for x in (train, test))
    return first, second


def _moments(values: Tensor) -> tuple[float, float]:
    flat = values.flatten().to(torch.float64)
    mean = float(flat.sum()) / len(flat)
    variance = float(flat.dot(flat)) / len(flat) - mean * mean
    # A constant channel, or one whose variance is lost in rounding, becomes 0 and is not blown up.
    return mean, variance**0.5 if variance > 1e-12 * mean * mean else 1.0


def _take(rows: Rows, mask: Tensor) -> Rows:
    kept = mask.nonzero().squeeze(1)
    columns = {name: tuple(values[row] for row in kept.tolist()) for name, values in rows.columns.items()}
    return Rows(rows.x[kept], rows.labels[kept.numpy()], columns)


def _check(name: str, rows: Rows) -> None:
    if not len(rows.labels):
        raise DataError(f"{name} has no examples")
    if len(rows.x) != len(rows.labels):
        raise DataError(f"{name} has {len(rows.x)} examples, but {len(rows.labels)} labels; give one label an example")
    check_labels(name, rows.labels)
    if rows.x.is_floating_point() and not torch.isfinite(rows.x).all():
        bad = (~torch.isfinite(rows.x.flatten(1)).all(1)).nonzero()
        raise DataError(
            f"{name}: {len(bad)} examples are not finite, the first is row {int(bad[0])}; mend or drop them"
        )


def check_labels(name: str, labels: NDArray[Any]) -> None:
    """Refuse labels (N,) that are neither integers nor strings.

    Raises:
        DataError: they are something else.
    """
    if labels.dtype.kind not in "iubU":
        raise DataError(f"{name}: the labels are {labels.dtype}, but must be integers or strings")


def numbers(
    name: str, train: NDArray[Any], test: NDArray[Any], classes: tuple[str, ...] | None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return the places in ``classes`` of both sides' labels (N,), and the names of the classes.

    Labels that are integers are places already; without ``classes``, those of ``train`` are sorted.

    Raises:
        DataError: labels that are not among the classes, or on test examples alone.
    """
    if classes is None:
        values = np.unique(train).tolist()
    else:
        values = list(range(len(classes))) if train.dtype.kind in "iu" else list(classes)
    number = {value: position for position, value in enumerate(values)}
    _refuse(f"{name}: labels that are not among its {len(values)} classes", train, number.keys())
    _refuse(f"{name}: labels of test examples that no training example has", test, set(train.tolist()))
    y, y_test = (torch.tensor([number[label] for label in labels.tolist()]) for labels in (train, test))
    return y, y_test, classes or tuple(str(value) for value in values)


def _refuse(what: str, labels: NDArray[Any], known: Container[Any]) -> None:
    unknown = sorted({label for label in labels.tolist() if label not in known}, key=str)
    if unknown:
        shown = ", ".join(repr(label) for label in unknown[:10]) + (", …" if len(unknown) > 10 else "")
        raise DataError(f"{what}: {shown}; check the label column, or drop these examples")
