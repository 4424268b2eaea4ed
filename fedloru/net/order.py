"""The order in which images are in memory: on a CPU, convolutions and pooling are faster with the channels last."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedloru.net.loss import Batch
from fedloru.net.record import Net
from fedloru.recipe import Precision

BLOCK = 16
"""The most channels that oneDNN computes together: those of a register of AVX-512."""


def prefers_channels_last(net: Net, device: torch.device, precision: Precision = "full") -> bool:
    """Return whether a model is faster with the channels of images last in memory, and can be trained in this order.

    In bf16, the backward pass of GroupNorm is ten times as slow in this order.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    layers = list(net.model.modules())
    if precision == "bf16" and any(isinstance(layer, nn.GroupNorm) for layer in layers):
        return False
    narrow = (torch.float32, torch.bfloat16)
    convolutions = [each for each in layers if isinstance(each, nn.Conv2d) and each.weight.dtype in narrow]
    return bool(convolutions) and not any(map(_overflows, convolutions))


def _overflows(layer: nn.Conv2d) -> bool:
    """Return whether oneDNN may write the gradient of the weight out of bounds if the channels are last.

    It does so for a strided 1×1 convolution whose input channels do not fill a block: the process crashes, or the
    gradient is wrong (github.com/uxlfoundation/oneDNN/issues/6035).
    """
    return layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels // layer.groups < BLOCK


def channels_last(batch: Batch) -> Batch:
    """Return ``batch`` with its images (n, c, h, w) in the order n, h, w, c in memory; their shapes are the same."""
    return batch | {key: _channels_last(value) for key, value in batch.items() if value.ndim == 4}


def _channels_last(x: Tensor) -> Tensor:
    """Return images with strides that say that channels are last, for a single channel as well.

    ``Tensor.contiguous`` returns images of one channel unchanged, and the layers that follow would choose the other
    order.
    """
    if x.shape[1] == 1:
        h, w = x.shape[2:]
        return x.contiguous().as_strided(x.shape, (h * w, 1, w, 1))
    return x.contiguous(memory_format=torch.channels_last)
