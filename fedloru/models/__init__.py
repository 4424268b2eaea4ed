"""The built-in models, and building a model by name, including your own."""

from fedloru.models.build import build
from fedloru.models.catalogue import FROM_DATA, MODELS
from fedloru.models.plain import cnn, mlp
from fedloru.models.resnet import ResNet, resnet

__all__ = ["FROM_DATA", "MODELS", "ResNet", "build", "cnn", "mlp", "resnet"]
