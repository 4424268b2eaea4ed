"""Residual networks for small images (He et al. 2016, arXiv 1512.03385), with a 3×3 stem and no max-pooling.

GroupNorm is the default in place of the paper's BatchNorm, whose statistics do not average well over clients whose
data differ (Hsieh et al. 2020, arXiv 1910.00189).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.errors import ModelError
from fedloru.models.norm import norm as norm_layer

STAGES = {8: (1, 1, 1), 10: (1, 1, 1, 1), 18: (2, 2, 2, 2)}
"""Blocks of each stage by depth; every stage after the first halves the image and doubles the channels."""


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the shape changes."""

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
    """A stem, stages of blocks, the mean over pixels and one linear layer."""

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


def resnet(depth: int, channels: int, classes: int, width: int = 64, norm: str = "group") -> ResNet:
    """Return a residual network of ``depth`` 8, 10 or 18 layers whose first stage has ``width`` channels.

    Raises:
        ModelError: there is no network of this depth, or no normalisation of this name.
    """
    if depth not in STAGES:
        raise ModelError(f"there is no resnet of depth {depth}; there are {', '.join(map(str, STAGES))}")
    return ResNet(STAGES[depth], channels, classes, width, norm)
