"""The normalisation layers that the models choose from."""

from __future__ import annotations

from math import gcd

from torch import nn

from fedloru.errors import ModelError

GROUP = 16
"""Channels of a group, where their number divides by it (Wu & He 2018, arXiv 1803.08494, find 16 to work well)."""


def norm(kind: str, channels: int) -> nn.Module:
    """Return the normalisation of ``channels`` named "group" or "batch".

    Raises:
        ModelError: there is no normalisation of that name.
    """
    if kind == "group":
        return nn.GroupNorm(channels // gcd(channels, GROUP), channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    raise ModelError(f"norm is {kind!r}, but must be 'group' or 'batch' ('none' only for cnn)")
