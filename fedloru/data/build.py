"""Build a ``Dataset`` from the rows of a source: split them, map labels to class indices, and normalize.

Pixels are standardized per channel with the mean and standard deviation of the training images; dividing them by 255
first would make no difference. The statistics are summed in float64, which is exact for 8-bit pixels, so they are
bitwise identical on every machine and with any number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloru.data import doubts
from fedloru.data.classes import Numbered, numbers
from fedloru.data.dataset import Dataset, Scaling
from fedloru.data.labels import as_labels
from fedloru.data.raw import Raw, Rows
from fedloru.data.targets import Kind, Task, as_classes, as_targets, kind_of
from fedloru.data.values import keys
from fedloru.errors import DataError, counted
from fedloru.rng import gen


def build(name: str, raw: Raw, *, test_fraction: float, seed: int, task: Task = "auto") -> Dataset:
    """Build a data set from ``raw``, holding out ``test_fraction`` of each class if the source has no test set.

    ``task`` says whether labels are classes or the targets of a regression; see ``fedloru.data.targets``.

    Raises:
        DataError: the rows, labels or shapes cannot be used.
    """
    train = _checked(name, raw.train)
    kind, doubtful = kind_of(name, train.labels, task), doubts.of_keys(train.columns)
    if raw.test is None:
        if kind == "regression":
            as_targets(name, train.labels)  # before the split, so that an error names the row of the source
        train, test = split(train, test_fraction, seed, by_class=kind == "classification")
    else:
        test = _checked(f"the test set of {name}", raw.test)
    _check_alike(name, train.x, test.x)
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(
            f"{name}: training examples have shape {tuple(train.x.shape[1:])}, but test examples have shape "
            f"{tuple(test.x.shape[1:])}; resize one of them"
        )
    y, y_test, classes, remarks = _numbered(name, kind, train.labels, test.labels, raw.classes)
    if kind == "classification" and task == "auto" and raw.classes is None:
        remarks += tuple(doubts.of_integers(name, train.labels, classes))
    scaling = _scaling(raw, train.x)
    x, x_test = (_scaled(each.x, scaling) for each in (train, test))
    return Dataset(
        name,
        {"x": x, "y": y},
        {"x": x_test, "y": y_test},
        classes,
        dict(train.columns),
        remarks=(*raw.remarks, *remarks, *doubtful),
        scaling=scaling,
        encoding=raw.encoding,
        test_columns=dict(test.columns),
    )


def _numbered(
    name: str, kind: Kind, train: NDArray[Any], test: NDArray[Any], classes: tuple[str, ...] | None
) -> Numbered:
    """Return the targets, or the class indices, of the training and the test labels."""
    kind_of(f"the test set of {name}", test, kind)
    if kind == "classification":
        return numbers(name, as_classes(train), as_classes(test), classes)
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{name}: training examples have targets of shape {train.shape[1:]}, but test examples {test.shape[1:]}: "
            "give all examples the same targets"
        )
    y, y_test = as_targets(name, train), as_targets(f"the test set of {name}", test)
    return Numbered(y, y_test, (), tuple(doubts.of_targets(name, y)))


def split(rows: Rows, fraction: float, seed: int, *, by_class: bool = True) -> tuple[Rows, Rows]:
    """Hold out ``fraction`` of each class, or of all rows if these have no class.

    Raises:
        DataError: the fraction is not between 0 and 1, or is so small that nothing is held out.
    """
    groups = rows.labels if by_class else np.zeros(len(rows.labels), np.int64)
    held = held_out(groups, fraction, seed)
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
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = torch.randperm(len(group), generator=gen(seed, "split"))
    drawn = torch.from_numpy(group)[order]
    held = torch.zeros(len(group), dtype=torch.bool)
    for label in range(int(drawn.max()) + 1):
        members = order[drawn == label]
        held[members[: min(round(fraction * len(members)), len(members) - 1)]] = True
    if not held.any():
        raise DataError(
            f"test_fraction {fraction} holds out none of {counted(len(group), 'example')}, since the largest class has "
            f"{sizes.max()}: raise it, or provide a test set. If labels are the targets of a regression, set data.task "
            "(task in Python) to 'regression'"
        )
    return held


def scaling_of(x: Tensor) -> Scaling:
    """Return the mean and the standard deviation of ``x`` along axis 1 (channels or features)."""
    means, stds = zip(*(_moments(x[:, channel]) for channel in range(x.shape[1])), strict=True)
    return Scaling(means, stds)


def _scaling(raw: Raw, x: Tensor) -> Scaling | None:
    if raw.encoding is not None:
        return raw.encoding.scaling
    return scaling_of(x) if raw.scale else None


def _scaled(x: Tensor, scaling: Scaling | None) -> Tensor:
    """Return ``x`` in float32, standardized by ``scaling``; without it, integers of 16 and more bits are kept."""
    if scaling is not None:
        return standardize(x, scaling)
    narrow = x.is_floating_point() or x.dtype in (torch.uint8, torch.int8, torch.bool)
    return x.to(torch.float32) if narrow else x


def standardize(x: Tensor, scaling: Scaling) -> Tensor:
    """Return ``x`` in float32, standardized along axis 1 by ``scaling``."""
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    mean, std = (torch.tensor(values, dtype=torch.float32).view(shape) for values in scaling)
    return x.to(torch.float32, copy=True).sub_(mean).div_(std)


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


def _checked(name: str, rows: Rows) -> Rows:
    """Return ``rows`` with ``x`` on the CPU, labels (N,) and keys as text, after checking them."""
    x, labels = _examples(name, rows.x), as_labels(rows.labels, "labels", name)
    if not len(labels):
        raise DataError(f"{name} has no examples")
    if len(x) != len(labels):
        raise DataError(f"{name} has {len(x)} examples, but {len(labels)} labels; give one label per example")
    if x.is_floating_point() and not (finite := x.to(torch.float32).isfinite()).all():
        invalid = (~finite.flatten(1).all(1)).nonzero()
        raise DataError(
            f"{name} has values that are not finite, or too large for float32, in {len(invalid)} of {len(x)} examples, "
            f"first in row {int(invalid[0])}; fix or drop these examples"
        )
    columns = {column: keys(values, column, name) for column, values in rows.columns.items()}
    for column, values in columns.items():
        if len(values) != len(labels):
            raise DataError(f"{name}: column {column!r} has {len(values)} values for {len(labels)} examples")
    return Rows(x, labels, columns)


def _examples(name: str, x: Any) -> Tensor:
    if not isinstance(x, Tensor) or x.is_complex() or x.ndim < 2 or not math.prod(x.shape[1:]):
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"{name}: expected x to be a tensor of numbers, (N, d) or (N, C, H, W), got {got}")
    return x.detach().cpu()


def _check_alike(name: str, train: Tensor, test: Tensor) -> None:
    """Check that images given as floats are not from 0 to 255 in one set, and from 0 to 1 in the other."""
    if train.ndim != 4 or not train.is_floating_point():
        return
    small, large = sorted(float(x.abs().max()) for x in (train, test))
    if 0 < small <= 1 and large > 100:
        raise DataError(
            f"{name}: the largest pixel of the training or the test set is {large:g}, that of the other {small:g}; "
            "scale both alike"
        )
