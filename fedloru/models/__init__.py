"""The models that come with fedloru, by name, and how the user's own are found."""

from fedloru.models.build import MODELS, build
from fedloru.models.plain import cnn, mlp
from fedloru.models.resnet import ResNet, resnet

__all__ = ["MODELS", "ResNet", "build", "cnn", "mlp", "resnet"]
