"""Decode images (PNG, JPEG, …) into one tensor of 8-bit pixels.

Lossless conversions are silent: a palette is looked up, and an alpha channel is dropped if every pixel is opaque. Other
conversions are reported in a remark: images are turned upright, gray images become RGB if others have color, and so on.
Other sizes, unless all images are resized, and more than 8 bits per channel are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloru.data.memory import check_size
from fedloru.data.raw import Raw
from fedloru.errors import DataError, optional

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

Pixels = NDArray[np.uint8]
Where = Callable[[int], str]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read. Pillow would run Ghostscript for EPS, and round the 16 bits of JPEG 2000 silently."""

GRAY_MODES = frozenset({"1", "L", "LA"})
COLOR_MODES = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"})
ORIENTATION = 0x0112
"""The EXIF tag that says how to turn an image; see ``_turns``."""

TURNED = "turned upright by EXIF orientation"
NO_EXIF = "not turned upright, since EXIF data cannot be read"
TRANSPARENT = "read without transparency"
FIRST_FRAME = "read without later frames"
STRETCHED = "stretched, since they are not square"
INKS = "converted from CMYK to RGB"
GRAY = "converted from gray to RGB, since others have color"


def decode(encoded: Sequence[bytes], where: Where, remarks: list[str] | None = None, size: int | None = None) -> Tensor:
    """Decode images of the same size to uint8 pixels (N, C, H, W); C is 3 if any image has color, else 1.

    With ``size``, images of any size are resized to ``size`` × ``size`` by Pillow's bilinear filter, which averages
    over all pixels when it makes an image smaller; images that are not square are stretched.

    Args:
        encoded: the content of the files.
        where: returns the name of an image, given its position, for messages.
        remarks: a list to which sentences about conversions are added.
        size: the height and the width to which images are resized; by default, all must have the same size.

    Raises:
        DataError: there are no images, an image cannot be read or has more than 8 bits per channel, images differ in
            size, or they do not fit into memory.
        MissingExtraError: pillow is not installed.
    """
    if not encoded:
        raise DataError(f"there are no images to read: {where(0)} does not exist")
    stack, done, gray = np.empty((0, 0, 0, 0), np.uint8), dict[str, list[int]](), list[int]()
    for row, data in enumerate(encoded):
        image = _open(data, where(row))
        if size is None:
            _check_header(image, stack, where, row)
        if not row:
            area = image.width * image.height if size is None else size * size
            check_size(len(encoded) * area * _channels(image), 1, f"images like {where(0)}")
        pixels, facts = _pixels(image, where(row), size)
        if not row:
            stack = np.empty((len(encoded), *pixels.shape), np.uint8)
        _check_shape(pixels.shape, stack, where, row)
        if pixels.shape[-1] > stack.shape[-1]:
            check_size(3 * stack.size, 1, f"images like {where(0)}")
            stack = np.repeat(stack, 3, axis=3)
        stack[row] = pixels
        gray += [row] if pixels.shape[-1] == 1 else []
        for fact in facts:
            done.setdefault(fact, []).append(row)
    if gray and stack.shape[-1] == 3:
        done[GRAY] = gray
    if remarks is not None:
        remarks += [_remark(fact, rows, where) for fact, rows in done.items()]
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


def same_channels(raw: Raw) -> Raw:
    """Return ``raw`` with gray images as RGB if only one of the training and the test set has color."""
    if raw.test is None or raw.train.x.shape[1] == raw.test.x.shape[1]:
        return raw
    train, test = (rows._replace(x=rows.x.expand(-1, 3, -1, -1)) for rows in (raw.train, raw.test))
    gray = "test" if raw.test.x.shape[1] == 1 else "training"
    return raw._replace(
        train=train, test=test, remarks=(*raw.remarks, f"all {gray} images were converted from gray to RGB")
    )


def _remark(fact: str, rows: list[int], where: Where) -> str:
    count = f"{len(rows):,} images were" if len(rows) > 1 else "1 image was"
    more = f" and {len(rows) - 1:,} more" if len(rows) > 1 else ""
    return f"{count} {fact}: {where(rows[0])}{more}"


def _open(data: bytes, name: str) -> ImageFile:
    pillow = optional("PIL.Image", extra="data", purpose="decoding images")
    try:
        image: ImageFile = pillow.open(BytesIO(data), formats=FORMATS)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise DataError(f"{name} is too large ({error}); replace or remove it") from error
    except MemoryError:
        raise
    except Exception as error:  # the parsers of Pillow raise exceptions of many types
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise DataError(f"{name} cannot be read as an image of the format {known}; replace or remove it") from error
    if image.mode not in GRAY_MODES | COLOR_MODES or _is_deep(image):
        raise DataError(f"{name} has pixels of mode {_mode(image)}; save it with 8 bits per channel")
    return image


def _is_deep(image: ImageFile) -> bool:
    """Return whether Pillow would cut the channels of ``image``, in an 8-bit mode, to 8 bits."""
    arguments = image.tile[0].args if image.tile else ""
    if image.format == "PPM" and isinstance(arguments, tuple):
        return int(arguments[-1]) > 255
    return re.search(r";16[BLN]", str(arguments)) is not None


def _mode(image: ImageFile) -> str:
    return f"{image.mode} with 16 bits per channel" if _is_deep(image) else image.mode


def _channels(image: Image) -> int:
    return 3 if image.mode in COLOR_MODES else 1


def _check_header(image: Image, stack: Pixels, where: Where, row: int) -> None:
    """Check the size that the header states; an image on its side may still be turned."""
    if row and sorted(image.size) != sorted(stack.shape[1:3]):
        _check_shape((image.height, image.width), stack, where, row)


def _check_shape(shape: tuple[int, ...], stack: Pixels, where: Where, row: int) -> None:
    height, width = stack.shape[1:3]
    if shape[:2] != (height, width):
        raise DataError(
            f"{where(row)} is {shape[1]}×{shape[0]} pixels, but {where(0)} is {width}×{height}; "
            "set data.size to resize all images"
        )


def _pixels(image: Image, name: str, size: int | None) -> tuple[Pixels, list[str]]:
    """Return the upright pixels (H, W, C) of ``image``, resized to ``size``, and what was done to it."""
    try:
        image.load()
        flat, facts = _flat(image)
        upright, turned = _upright(image, flat)
        frames = [FIRST_FRAME] if getattr(image, "is_animated", False) else []
        if size is not None and upright.size != (size, size):
            frames += [STRETCHED] if upright.width != upright.height else []
            upright = upright.resize((size, size), optional("PIL.Image", extra="data", purpose="resizing").BILINEAR)
        return np.asarray(upright).reshape(upright.height, upright.width, -1), facts + turned + frames
    except MemoryError:
        raise
    except Exception as error:  # the parsers of Pillow raise exceptions of many types
        raise DataError(f"{name} is damaged ({error}); replace or remove it") from error


def _flat(image: Image) -> tuple[Image, list[str]]:
    """Return ``image`` in the mode L or RGB, and what was done to it."""
    facts = [INKS] if image.mode == "CMYK" else []
    color = image.mode in COLOR_MODES
    if image.has_transparency_data:
        image = image.convert("RGBA" if color else "LA")
        lowest, _ = image.getchannel("A").getextrema()
        facts += [TRANSPARENT] if lowest < 255 else []  # type: ignore[operator]  # of one channel, it is a number
    return image.convert("RGB" if color else "L"), facts


def _upright(image: Image, flat: Image) -> tuple[Image, list[str]]:
    """Turn ``flat`` as the EXIF data of ``image`` says."""
    try:
        turn = _turns().get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # the parser of EXIF data raises exceptions of many types
        return flat, [NO_EXIF]
    return (flat, []) if turn is None else (flat.transpose(turn), [TURNED])


def _turns() -> dict[int, Any]:
    """Return how to turn an image, by the value of the EXIF orientation; 1 is upright."""
    turn = optional("PIL.Image", extra="data", purpose="decoding images").Transpose
    return {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
