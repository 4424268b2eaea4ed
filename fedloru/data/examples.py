"""Examples as tensors, and the checks of those that users hand over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedloru.advice import instead
from fedloru.errors import DataError

Examples = dict[str, Tensor]
"""Tensors with one row per example.

Images: ``x`` (N, C, H, W) float32, normalized, and ``y`` (N,) int64.
Vectors: ``x`` (N, d) float32 and ``y`` (N,) int64.
Regression: ``y`` (N,) or (N, t) floating-point numbers.
Texts: ``input_ids`` (N, T) int64, padded on the right, and ``length`` (N,) int64, the number of tokens that are not
padding; for a causal model also ``labels`` (N, T) int64, not shifted, −100 where no loss is computed, and for a
classifier ``y`` (N,) int64.
"""

EXPECTED = "expected a dict of tensors with one row per example, such as {'x': images, 'y': labels}"


def described(examples: Examples) -> str:
    """Return the shape and dtype of one example, for messages."""
    return ", ".join(f"{key} {tuple(value.shape[1:])} {value.dtype}" for key, value in examples.items())


def size(examples: Examples) -> int:
    """Return the number of examples."""
    return len(next(iter(examples.values()), ()))


def examples(where: str, given: Any, classes: Sequence[str]) -> Examples:
    """Return ``given`` as examples, with labels (N,) int64 if there are classes, and targets of a regression if not.

    Args:
        where: the start of messages.
        given: the tensors by name; {} if there are no examples.
        classes: the names of the classes; () if examples have no single class.

    Raises:
        DataError: these are not tensors with one row per example, labels are not class indices, or ``x`` or targets
            have values that are not finite.
    """
    if not isinstance(given, Mapping):
        raise DataError(
            f"{where} is a {type(given).__name__}, {EXPECTED}{f'; {advice}' if (advice := instead(given)) else ''}"
        )
    made = {key: _tensor(f"{where}[{key!r}]", value) for key, value in given.items()}
    sizes = {key: len(value) for key, value in made.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(
            f"{where} has {' and '.join(f'{count} rows of {key!r}' for key, count in sizes.items())}, {EXPECTED}"
        )
    if "x" in made:
        _check_finite(f"{where}['x']", made["x"])
    if "y" in made and classes:
        made["y"] = _class_indices(f"{where}['y']", made["y"], len(classes))
    elif "y" in made and made["y"].is_floating_point():
        made["y"] = made["y"][:, 0] if made["y"].ndim == 2 and made["y"].shape[1] == 1 else made["y"]
        _check_finite(f"{where}['y']", made["y"])
    return made


def class_names(where: str, classes: Any) -> tuple[str, ...]:
    """Return the names of the classes as strings; None stands for no classes.

    Raises:
        DataError: ``classes`` is a number or a single string.
    """
    if classes is None:
        return ()
    if isinstance(classes, (str, bytes)) or not hasattr(classes, "__iter__"):
        hint = f": tuple(map(str, range({classes})))" if isinstance(classes, int) else ""
        raise DataError(f"{where!r}: classes is {classes!r}, expected the names of the classes{hint}")
    return tuple(str(name) for name in classes)


def _tensor(where: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        maker = "torch.from_numpy" if type(value).__module__ == "numpy" else "torch.tensor"
        raise DataError(f"{where} is a {type(value).__name__}, expected a tensor; convert it with {maker}")
    if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
        raise DataError(f"{where} is sparse, quantized or on the device 'meta'; expected a dense tensor with values")
    if value.ndim == 0 or value.is_complex():
        raise DataError(
            f"{where} has {value.dtype} and shape {tuple(value.shape)}, expected real numbers, one row per example"
        )
    return value.detach()


def _check_finite(where: str, x: Tensor) -> None:
    if x.is_floating_point() and not (finite := x.isfinite()).all():
        rows = (~finite.flatten(1).all(1)).nonzero() if x.ndim > 1 else (~finite).nonzero()
        raise DataError(
            f"{where} has values that are not finite in {len(rows)} of {len(x)} rows, first in row {int(rows[0])}; fix "
            "or drop these examples"
        )


def _class_indices(where: str, y: Tensor, classes: int) -> Tensor:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim > 1:
        return y  # several labels per example, for losses that take them
    if y.is_floating_point():
        raise DataError(
            f"{where} has {y.dtype}, expected class indices, integers from 0 to {classes - 1}; use y.long()"
        )
    y = y.long()
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        row = int(((y < 0) | (y >= classes)).nonzero()[0])
        raise DataError(
            f"{where} is {int(y[row])} in row {row}, expected class indices, from 0 to {classes - 1} for the "
            f"{classes} names in classes"
        )
    return y
