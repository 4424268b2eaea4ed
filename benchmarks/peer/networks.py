"""The models of ``peers.py`` in plain torch, with the weights' names of ``fedloru.models``; and low-rank layers.

Peers have neither, so their users would write these lines. A test compares them with the models of the library.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def build(settings: Mapping[str, Any]) -> nn.Module:
    """Return the model of a workload, with low-rank layers where their names match a glob in ``targets``."""
    model = MODELS[settings["model"]]()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d) and any(fnmatchcase(name, glob) for glob in settings["targets"]):
            wrapper = LowRankLinear if isinstance(layer, nn.Linear) else LowRankConv2d
            model.set_submodule(name, wrapper(layer, settings["rank"], settings["scale"]))
    return model


class LowRankLinear(nn.Module):
    """A linear layer with W + s·BA, where W is frozen."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = layer.weight, layer.bias, scale
        self.a = nn.Parameter(torch.zeros(rank, layer.in_features))
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, i) to (…, o)."""
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(x, self.a), self.b)


class LowRankConv2d(nn.Module):
    """A convolution with W + s·BA, where W is frozen."""

    def __init__(self, layer: nn.Conv2d, rank: int, scale: float) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = layer.weight, layer.bias, scale
        self.stride, self.padding = layer.stride, layer.padding
        o, *inner = layer.weight.shape
        self.a = nn.Parameter(torch.zeros(rank, *inner))
        self.b = nn.Parameter(torch.zeros(o, rank, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, h, w) to (b, o, h', w')."""
        h = F.conv2d(x, self.a, None, self.stride, self.padding)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding) + self.scale * F.conv2d(h, self.b)


def mlp() -> nn.Module:
    """Return the perceptron 784-200-10."""
    layers = {"flatten": nn.Flatten(), "fc1": nn.Linear(784, 200), "relu1": nn.ReLU(), "fc2": nn.Linear(200, 10)}
    return nn.Sequential(OrderedDict(layers))


def cnn() -> nn.Module:
    """Return the convolutional network of McMahan et al. 2017 for 28×28 digits."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (i, o) in enumerate(((1, 32), (32, 64)), start=1):
        layers[f"conv{number}"] = nn.Conv2d(i, o, 5, padding=2)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(3136, 512), "relu3": nn.ReLU(), "fc2": nn.Linear(512, 10)}
    return nn.Sequential(layers)


class Block(nn.Module):
    """Two 3×3 convolutions with GroupNorm, and a shortcut."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, padding=1, bias=False)
        self.norm1 = group_norm(o)
        self.conv2 = nn.Conv2d(o, o, 3, padding=1, bias=False)
        self.norm2 = group_norm(o)
        self.shortcut = nn.Sequential()
        if i != o:
            self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), group_norm(o))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, h, w) to (b, o, h/stride, w/stride)."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet10(nn.Module):
    """A residual network of four blocks, of width 16, for 32×32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm1 = group_norm(16)
        for stage, (i, o) in enumerate(((16, 16), (16, 32), (32, 64), (64, 128)), start=1):
            self.add_module(f"layer{stage}", nn.Sequential(Block(i, o, 1 if i == o else 2)))
        self.fc = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, 3, 32, 32) to logits (b, 10)."""
        x = F.relu(self.norm1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the normalization of the library's residual networks."""
    return nn.GroupNorm(channels // 16, channels)


class EncoderBlock(nn.Module):
    """A layer of BERT: attention with 12 heads and a perceptron, each followed by a sum and a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, T, width) to (b, T, width)."""
        heads = [layer(x).unflatten(-1, (12, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """A sentence encoder of the size of MiniLM-L6: 22 million parameters, with the mean of its tokens classified."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(30522, 384), nn.Embedding(512, 384)
        self.norm = nn.LayerNorm(384)
        self.blocks = nn.Sequential(*(EncoderBlock(384) for _ in range(6)))
        self.head = nn.Linear(384, 10)

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids (b, T) to logits (b, 10)."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.blocks(self.norm(self.token(ids) + self.position(positions)))
        return self.head(x.mean(1))


MODELS = {"encoder": Encoder, "mlp": mlp, "cnn": cnn, "resnet10": ResNet10}
