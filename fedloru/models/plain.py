"""Sequential models: a multilayer perceptron and the convolutional network of the FedAvg paper."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Literal

from torch import nn

from fedloru.errors import ModelError
from fedloru.models.norm import norm as norm_layer
from fedloru.settings.types import Count, Counts


def mlp(in_features: int, classes: int, hidden: Counts = (200,)) -> nn.Sequential:
    """Return a multilayer perceptron with ReLU that maps (b, …), flattened, to (b, classes).

    Its linear layers are named fc1, fc2, ….

    Args:
        in_features: the number of values of an example.
        classes: the number of classes.
        hidden: the widths of the hidden layers.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (i, o) in enumerate(pairwise((in_features, *hidden)), start=1):
        layers[f"fc{number}"] = nn.Linear(i, o)
        layers[f"relu{number}"] = nn.ReLU()
    layers[f"fc{len(hidden) + 1}"] = nn.Linear((in_features, *hidden)[-1], classes)
    return nn.Sequential(layers)


def cnn(
    channels: int, classes: int, size: int = 28, norm: Literal["none", "group", "batch"] = "none", width: Count = 32
) -> nn.Sequential:
    """Return the CNN of McMahan et al. 2017 (arXiv 1602.05629) for images (b, channels, size, size).

    It has two 5×5 convolutions, with ``width`` and 2·width output channels and 2×2 max-pooling after each, followed by
    a hidden linear layer of 16·width features. For 28×28 grayscale images and 10 classes it has 1,663,370 parameters.

    Args:
        channels: the channels of an image.
        classes: the number of classes.
        size: the height and width of an image, in pixels.
        norm: the normalization after each convolution.
        width: output channels of the first convolution; everything else scales with it.

    Raises:
        ModelError: the images are smaller than 4×4 pixels, or ``norm`` is unknown.
    """
    if size < 4:
        raise ModelError(f"cnn halves images twice and needs at least 4×4 pixels, got {size}×{size}; use mlp instead")
    features = 2 * width * (size // 4) ** 2
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (i, o) in enumerate(pairwise((channels, width, 2 * width)), start=1):
        layers[f"conv{number}"] = nn.Conv2d(i, o, kernel_size=5, padding=2)
        if norm != "none":
            layers[f"norm{number}"] = norm_layer(norm, o)
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        layers[f"relu{number}"] = nn.ReLU()  # the same outputs and gradients as before the pooling, of a quarter of it
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(features, 16 * width)
    layers["relu3"] = nn.ReLU()
    layers["fc2"] = nn.Linear(16 * width, classes)
    return nn.Sequential(layers)
