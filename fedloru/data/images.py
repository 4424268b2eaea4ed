"""Decode images (PNG, JPEG, …) into one tensor of 8-bit pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedloru.errors import DataError, optional

if TYPE_CHECKING:
    from PIL.Image import Image

GRAY_MODES = frozenset({"1", "L", "LA"})
COLOR_MODES = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"})


def decode(encoded: Sequence[bytes], where: Callable[[int], str]) -> Tensor:
    """Decode images of the same size to uint8 pixels (N, C, H, W); C is 3 if any image has color, else 1.

    ``where`` returns the name of an image, given its position, for error messages.

    Raises:
        DataError: there are no images, an image cannot be read, or images differ in size.
        MissingExtraError: pillow is not installed.
    """
    opened = [_open(data, where, row) for row, data in enumerate(encoded)]
    if not opened:
        raise DataError(f"there are no images to read: {where(0)} does not exist")
    mode = "RGB" if any(image.mode in COLOR_MODES for image in opened) else "L"
    width, height = opened[0].size
    pixels = np.empty((len(opened), height, width, len(mode)), np.uint8)
    for row, image in enumerate(opened):
        if image.size != (width, height):
            raise DataError(
                f"{where(row)} is {image.width}×{image.height} pixels, but {where(0)} is {width}×{height}; "
                "resize all images to the same size"
            )
        pixels[row] = _pixels(image, mode, where, row).reshape(height, width, -1)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _open(data: bytes, where: Callable[[int], str], row: int) -> Image:
    pillow = optional("PIL.Image", extra="data", purpose="decoding images")
    try:
        image: Image = pillow.open(BytesIO(data))
    except OSError as error:
        raise DataError(f"{where(row)} cannot be read as an image; replace or remove it") from error
    if image.mode not in GRAY_MODES | COLOR_MODES:
        raise DataError(f"{where(row)} has pixels of mode {image.mode}; save it with 8 bits per channel")
    return image


def _pixels(
    image: Image, mode: str, where: Callable[[int], str], row: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        return np.asarray(image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where(row)} is damaged ({error}); replace or remove it") from error
