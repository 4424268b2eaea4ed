"""All models, one line each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from fedloru.errors import ModelError
from fedloru.models.plain import cnn, mlp
from fedloru.models.resnet import resnet
from fedloru.settings import Table

MODELS: Table[Callable[..., nn.Module]] = Table(
    "model",
    {
        "cnn": cnn,
        "mlp": mlp,
        "resnet8": partial(resnet, 8),
        "resnet10": partial(resnet, 10),
        "resnet18": partial(resnet, 18),
    },
    ModelError,
)
"""The built-in models by their names in a configuration."""

FROM_DATA = ("channels", "size", "classes", "in_features")
"""The parameters of models that follow from the data, and are not settings."""
