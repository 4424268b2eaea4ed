"""Plain chains of layers: the multilayer perceptron and the convolutional net of the FedAvg paper."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from fedloru.errors import ModelError
from fedloru.models.norm import norm as norm_layer


def mlp(in_features: int, classes: int, hidden: Sequence[int] = (200,)) -> nn.Sequential:
    """Return a perceptron with ReLU that flattens its input and maps (b, …) to (b, classes); layers fc1, fc2, …."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (i, o) in enumerate(pairwise((in_features, *hidden)), start=1):
        layers[f"fc{number}"] = nn.Linear(i, o)
        layers[f"relu{number}"] = nn.ReLU()
    layers[f"fc{len(hidden) + 1}"] = nn.Linear((in_features, *hidden)[-1], classes)
    return nn.Sequential(layers)


def cnn(channels: int, classes: int, size: int = 28, norm: str = "none", width: int = 32) -> nn.Sequential:
    """Return the net of McMahan et al. 2017 (arXiv 1602.05629) for images (b, channels, size, size).

    Two 5×5 convolutions to ``width`` and 2·width channels, each with 2×2 max-pooling, then 16·width features.
    For 28×28 grey images and 10 classes it has 1,663,370 parameters. ``norm`` is "none", "group" or "batch".

    Raises:
        ModelError: the images are smaller than 4×4, or the normalisation is unknown.
    """
    if size < 4:
        raise ModelError(f"cnn halves its images twice and needs 4×4 pixels at least, but got {size}×{size}; use mlp")
    features = 2 * width * (size // 4) ** 2
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (i, o) in enumerate(pairwise((channels, width, 2 * width)), start=1):
        layers[f"conv{number}"] = nn.Conv2d(i, o, kernel_size=5, padding=2)
        if norm != "none":
            layers[f"norm{number}"] = norm_layer(norm, o)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(features, 16 * width)
    layers["relu3"] = nn.ReLU()
    layers["fc2"] = nn.Linear(16 * width, classes)
    return nn.Sequential(layers)
