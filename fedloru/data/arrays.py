"""Examples and labels from tensors, arrays and lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloru.advice import got, hint
from fedloru.data.labels import as_labels
from fedloru.data.memory import check_size
from fedloru.errors import DataError


def examples(x: Any, what: str) -> Tensor:
    """Return examples as a tensor, with 8-bit integers and floats as they are; ``what`` names them in messages.

    Raises:
        DataError: they are no numbers in memory, or images with their channels last.
    """
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
        wide = x.dtype.kind == "u" and x.dtype.itemsize > 1  # torch computes little with these
        x = torch.from_numpy(np.ascontiguousarray(x.astype(np.int64 if wide else x.dtype.newbyteorder("="))))
    if isinstance(x, (list, tuple)) and x and not isinstance(x[0], Tensor):
        x = _tensor(x, what)
    if isinstance(x, (list, tuple)) and x:
        x = stacked(x, what)
    if not isinstance(x, Tensor):
        raise DataError(f"{what} is {got(x)}, expected a tensor or an array of numbers{hint(x)}")
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 2, 3, 4):
        raise DataError(
            f"{what} has shape {tuple(x.shape)}, which looks like images with their channels last, expected (N, C, H, "
            "W): use torch.as_tensor(x).permute(0, 3, 1, 2)"
        )
    if x.layout != torch.strided or x.is_meta:
        kind = "on the device meta, which holds no values" if x.is_meta else f"of the layout {x.layout}: use to_dense()"
        raise DataError(f"{what} is a tensor {kind}")
    check_size(x.numel(), x.element_size(), f"{what} of shape {tuple(x.shape)}")
    return x


def labels(y: Any, classes: Sequence[str] | None, name: str) -> NDArray[Any]:
    """Return labels; with ``classes``, integers are class indices, and become the names of their classes.

    Raises:
        DataError: they are no labels, or no indices of ``classes``.
    """
    found = as_labels(y, "y", name)
    if classes is None or found.dtype.kind not in "iu" or found.ndim > 1:
        return found
    if len(wrong := ((found < 0) | (found >= len(classes))).nonzero()[0]):
        raise DataError(
            f"{name}: the label of row {int(wrong[0])} is {found[wrong[0]]}, expected class indices from 0 to "
            f"{len(classes) - 1} for the {len(classes)} names in classes"
        )
    named: NDArray[Any] = np.array([str(each) for each in classes])[found]
    return named


def stacked(x: Sequence[Any], what: str) -> Tensor:
    """Return tensors of one shape as one tensor.

    Raises:
        DataError: they have different shapes, or are no tensors.
    """
    try:
        return torch.stack(list(x))
    except (TypeError, RuntimeError) as error:
        raise DataError(f"{what} cannot be stacked to one tensor ({error}): give all examples one shape") from error


def _tensor(x: Sequence[Any], what: str) -> Tensor:
    try:
        return torch.tensor(np.array(x) if isinstance(x[0], np.ndarray) else x)  # slow for a list of arrays
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} is a {type(x).__name__} that is not a table of numbers ({error})") from error
