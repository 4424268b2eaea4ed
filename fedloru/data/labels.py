"""Labels and other values with one entry per example, as an array (N,) of integers or strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedloru.errors import DataError

HINTS = {
    "f": "convert whole numbers with y.astype(numpy.int64)",
    "O": "an array of objects mixes types or has missing values; use numbers or strings",
}
"""What to do about labels of other types, by the kind of their dtype."""


def as_labels(what: str, values: NDArray[Any] | Tensor | Sequence[Any]) -> NDArray[Any]:
    """Return ``values`` as an array (N,) of integers, booleans or strings.

    Shapes such as (N, 1) are flattened, and bytes are decoded as UTF-8.

    Args:
        what: the subject of messages, such as "digits: labels".
        values: an array, a tensor or a list.

    Raises:
        DataError: they are of another type, or there may be several per example.
    """
    array = _array(what, values)
    if array.dtype.kind not in "iubUS":
        hint = HINTS.get(array.dtype.kind, "convert them")
        raise DataError(f"{what} must be integers or strings, got {array.dtype}; {hint}")
    if array.ndim == 0 or array.size != len(array):
        several = array.ndim == 2 and array.size > 0
        hint = "; convert one-hot labels with y.argmax(1)" if several else ""
        raise DataError(f"{what} have shape {array.shape}, expected (N,), one per example{hint}")
    array = array.reshape(len(array))
    try:
        if array.dtype.kind == "S":
            return np.char.decode(array, "utf-8") if array.size else array.astype(str)
        if array.dtype.kind == "U":
            "".join(array.tolist()).encode()
    except UnicodeError as error:
        raise DataError(f"{what} are not valid Unicode ({error}); rename them") from error
    return array


def _array(what: str, values: NDArray[Any] | Tensor | Sequence[Any]) -> NDArray[Any]:
    if isinstance(values, Tensor):
        return np.asarray(values.detach().cpu())
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise DataError(f"{what} are a {type(values).__name__}, expected an array (N,) of integers or strings")
    if len({isinstance(value, str) for value in values}) > 1:  # numpy would turn the numbers into strings
        raise DataError(f"{what} mix strings with other values; use either integers or strings")
    try:
        return np.array(values)
    except ValueError as error:
        raise DataError(f"{what} are lists of different lengths, expected one integer or string per example") from error
