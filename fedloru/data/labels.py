"""Labels and keys, one per example, from arrays, tensors and lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedloru.data.values import labels
from fedloru.errors import DataError

Values = NDArray[Any] | Tensor | Sequence[Any]


def as_labels(values: Values, name: str, where: str) -> NDArray[Any]:
    """Return ``values`` as labels (N,), integers, strings or floats; shapes such as (N, 1) are flattened.

    Numbers (N, d) are several labels per example, such as the targets of a regression.

    Args:
        values: an array, a tensor or a list.
        name: the name of the values, for messages.
        where: the file or data set, for messages.

    Raises:
        DataError: they are of another type or shape.
    """
    array = _array(values, name, where)
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "iubf":
        return array
    array = flat(array, name, where)
    if array.dtype.kind in "iubf":
        return array
    return labels(list(_decoded(array, name, where)), name, where)


def flat(values: Values, name: str, where: str) -> NDArray[Any]:
    """Return ``values`` as an array (N,); shapes such as (N, 1) are flattened.

    Raises:
        DataError: there may be several values per example.
    """
    array = _array(values, name, where)
    if array.ndim and array.size == len(array):
        return array.reshape(len(array))
    raise DataError(f"{where}: {name!r} has shape {array.shape}, expected (N,), one value per example")


def _decoded(array: NDArray[Any], name: str, where: str) -> NDArray[Any]:
    if array.dtype.kind != "S" or not array.size:
        return array
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: {name!r} has bytes that are not UTF-8 text ({error}); store strings") from error


def _array(values: Any, name: str, where: str) -> NDArray[Any]:
    if isinstance(values, Tensor):
        return np.asarray(values.detach().cpu())
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise DataError(f"{where}: {name!r} is a {type(values).__name__}, expected an array of integers or strings")
    return labels(values, name, where, floats=True)
