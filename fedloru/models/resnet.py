"""Residual networks for small images (He et al. 2016, arXiv 1512.03385), with a 3×3 stem and no max-pooling.

The default is GroupNorm instead of the paper's BatchNorm, because batch statistics do not average well over clients
with heterogeneous data (Hsieh et al. 2020, arXiv 1910.00189).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.errors import ModelError
from fedloru.models.norm import norm as norm_layer
from fedloru.settings.types import Count

STAGES = {8: (1, 1, 1), 10: (1, 1, 1, 1), 18: (2, 2, 2, 2)}
"""Number of blocks in each stage, by depth. Every stage after the first halves the image and doubles the channels."""


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is a 1×1 convolution if the shape changes, else the identity."""

    def __init__(self, i: int, o: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, padding=1, bias=False)
        self.norm1 = norm_layer(norm, o)
        self.conv2 = nn.Conv2d(o, o, 3, padding=1, bias=False)
        self.norm2 = norm_layer(norm, o)
        self.shortcut = nn.Sequential()
        if stride != 1 or i != o:
            self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), norm_layer(norm, o))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, i, h, w) to (b, o, h/stride, w/stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.shortcut(x)
        return F.relu(y)


class ResNet(nn.Module):
    """A residual network: a stem, stages of blocks, global average pooling and a linear layer."""

    def __init__(self, blocks: tuple[int, ...], channels: int, classes: int, width: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm1 = norm_layer(norm, width)
        self.stages = len(blocks)
        i = width
        for stage, count in enumerate(blocks):
            o = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            layer = nn.Sequential(*(Block(i if n == 0 else o, o, stride, norm) for n, stride in enumerate(strides)))
            self.add_module(f"layer{stage + 1}", layer)
            i = o
        self.fc = nn.Linear(i, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (b, channels, h, w) to logits (b, classes)."""
        x = F.relu(self.norm1(self.conv1(x)))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnet(
    depth: int, channels: int, classes: int, width: Count = 64, norm: Literal["group", "batch"] = "group"
) -> ResNet:
    """Return a residual network for small images; its layers are conv1, norm1, layer1, layer2, …, fc.

    Args:
        depth: the number of layers: 8, 10 or 18.
        channels: the channels of an image.
        classes: the number of classes.
        width: channels of the first stage; everything else scales with it.
        norm: the normalization after each convolution.

    Raises:
        ModelError: the depth or the normalization is not supported.
    """
    if depth not in STAGES:
        raise ModelError(f"the depth of a resnet must be one of {', '.join(map(str, STAGES))}, got {depth}")
    return ResNet(STAGES[depth], channels, classes, width, norm)
