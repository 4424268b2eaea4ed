"""Read NumPy archives. The sizes that a file states are checked before an array is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile, ZipInfo

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from fedloru.data.labels import as_labels, flat
from fedloru.data.memory import check_size
from fedloru.data.paths import regular
from fedloru.data.raw import Raw, Rows, unread
from fedloru.errors import DataError, choices, plain
from fedloru.settings.types import Text, Texts

Axes = Literal["auto", "NHW", "NHWC", "NCHW"]

CHANNELS = frozenset({1, 2, 3, 4})
"""The sizes that an axis of channels usually has."""

EXPECTED = "numbers of shape (N, d), (N, H, W), (N, H, W, C) or (N, C, H, W)"
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
GROUPS = {"b": "booleans", "i": "integers", "u": "integers", "f": "floats"}


def npz(*, path: Text, columns: Texts = (), axes: Axes = "auto") -> Raw:
    """Read the arrays ``x`` and ``y``, and optionally ``x_test`` and ``y_test``, from a NumPy archive.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), vectors (N, d). Values may have any range, such as 0 to 1 or
    0 to 255, since they are standardized; but ``x_test`` must have the range of ``x``. Labels are integers or strings
    (N,), and columns are further arrays of N integers or strings.

    Args:
        path: the file, relative to the working directory.
        columns: further arrays to keep, for natural partitions; with test examples, also hospital_test for hospital,
            if there is one, so that clients are scored on their own.
        axes: the axes of x: height, width and, last or first, channels. By default, 1 to 4 channels are recognized,
            and shapes that can be read in two ways are refused.

    Raises:
        DataError: the file or an array is missing, an array has an unsupported shape, does not fit into memory, or
            reading it needs pickle.
    """
    place = Path(path)
    if not place.exists():
        raise DataError(f"there is no file {place}; check data.path")
    regular(place)
    with _refusing(place), ZipFile(place) as archive:
        entries = _entries(archive)
        test_columns = {name: f"{name}_test" for name in columns if f"{name}_test" in entries}
        held_out = ("x_test", "y_test", *test_columns.values()) if "x_test" in entries else ()
        wanted = ("x", "y", *columns, *held_out)
        for name in wanted:
            if name not in entries:
                raise DataError(f"{path} has no array {name!r}{choices(name, map(plain, entries))}")
        arrays = {name: _read(archive, entries[name], f"{path}: {name}") for name in wanted}
    remarks = unread([plain(name) for name in entries if name not in arrays], f"in {path}", "array")
    train = Rows(
        _axes(arrays["x"], axes, f"{path}: x"),
        as_labels(arrays["y"], "y", path),
        {name: flat(arrays[name], name, path) for name in columns},
    )
    if not held_out:
        return Raw(train, remarks=remarks)
    _check_alike(arrays["x"], arrays["x_test"], path)
    test = Rows(
        _axes(arrays["x_test"], axes, f"{path}: x_test"),
        as_labels(arrays["y_test"], "y_test", path),
        {name: flat(arrays[key], key, path) for name, key in test_columns.items()},
    )
    return Raw(train, test, remarks=remarks)


@contextmanager
def _refusing(place: Path) -> Iterator[None]:
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # zipfile, its decompressors and numpy raise exceptions of many types
        raise DataError(
            f"{place} is not a NumPy archive of numbers or strings ({error}); "
            "write it with numpy.savez, without object arrays"
        ) from error


def _entries(archive: ZipFile) -> dict[str, ZipInfo]:
    entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise ValueError("two of its arrays have the same name")
    return entries


def _read(archive: ZipFile, entry: ZipInfo, what: str) -> NDArray[Any]:
    """Read an array after checking that its stated size is that of its entry, and fits into memory."""
    with archive.open(entry) as file:
        shape, _, dtype = HEADERS[npy.read_magic(file)](file)
        header = file.tell()
    if dtype.hasobject:
        raise ValueError("it contains Python objects")
    values = math.prod(shape)
    if not dtype.itemsize or entry.file_size - header != values * dtype.itemsize:
        raise ValueError(f"{what} states the shape {shape} and {dtype}, but has {entry.file_size - header} bytes")
    check_size(values, dtype.itemsize, f"{what}, {dtype} of shape {shape},")
    with archive.open(entry) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        file.read()  # compares the checksum at the end of the entry
        return array


def _check_alike(x: NDArray[Any], test: NDArray[Any], path: str) -> None:
    kinds = [GROUPS.get(array.dtype.kind, "") for array in (x, test)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"{path}: x has {x.dtype}, but x_test has {test.dtype}, so their values may have different ranges; "
            "store both with the same dtype and range"
        )


def _axes(x: NDArray[Any], axes: str, what: str) -> Tensor:
    """Return ``x`` as a tensor with channels, if any, in axis 1."""
    if x.dtype.kind not in GROUPS or x.ndim not in (2, 3, 4):
        raise DataError(f"{what}: expected x to hold {EXPECTED}, got {x.dtype} of shape {x.shape}")
    found = _found(x.shape, what) if axes == "auto" else axes
    if len(found) != x.ndim:
        raise DataError(f"{what} has shape {x.shape}, which does not have the axes {axes}: change data.axes")
    if found == "NHW":
        x = x[:, None]
    elif found == "NHWC":
        x = np.moveaxis(x, -1, 1)
    with np.errstate(over="ignore"):  # values that float32 cannot hold become infinite, which is refused later
        return torch.from_numpy(np.ascontiguousarray(x if x.dtype == np.uint8 else x.astype(np.float32)))


def _found(shape: tuple[int, ...], what: str) -> str:
    """Return the axes of arrays of ``shape``, which must not be ambiguous."""
    if len(shape) == 2:
        return "ND"
    first, last = shape[1] in CHANNELS, shape[-1] in CHANNELS
    if len(shape) == 4 and first != last:
        return "NCHW" if first else "NHWC"
    if len(shape) == 3 and min(shape[1:]) > 3:
        return "NHW"
    if len(shape) == 3:
        raise DataError(
            f"{what} has shape {shape}, which may be images (N, H, W), or vectors with channels: reshape it to (N, d) "
            "or (N, C, H, W), or set data.axes to 'NHW'"
        )
    raise DataError(
        f"{what} has shape {shape}, and either axis 1 or the last axis may hold the channels: set data.axes to "
        "'NCHW' or 'NHWC'"
    )
