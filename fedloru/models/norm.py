"""Normalization layers for the built-in models."""

from __future__ import annotations

from math import gcd

from torch import nn

from fedloru.errors import ModelError

GROUP = 16
"""Channels per group if the number of channels is a multiple of it, else their greatest common divisor.

Wu & He 2018 (arXiv 1803.08494) find that 16 works well.
"""


def norm(kind: str, channels: int) -> nn.Module:
    """Return a normalization layer for ``channels`` channels; ``kind`` is "group" or "batch".

    Raises:
        ModelError: ``kind`` is something else.
    """
    if kind == "group":
        return nn.GroupNorm(channels // gcd(channels, GROUP), channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    raise ModelError(f"norm must be 'group' or 'batch' (or 'none', for cnn only), got {kind!r}")
