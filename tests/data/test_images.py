from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fedloru.data.images import decode
from fedloru.errors import DataError

COLOR = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
GRAY = np.ascontiguousarray(COLOR[..., 0])


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def read(*files: bytes) -> tuple[torch.Tensor, list[str]]:
    remarks: list[str] = []
    return decode(files, lambda row: f"image {row}", remarks), remarks


def png(width: int, height: int, bits: int, kind: int, data: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(kind: str, orientation: int) -> None:
    data = encoded(Image.fromarray(COLOR), kind, exif=exif(orientation))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    pixels, remarks = read(data)
    assert np.array_equal(pixels[0].permute(1, 2, 0), upright)
    # Pillow turns TIFF images while it loads them.
    assert remarks == (
        ["1 image was turned upright by EXIF orientation: image 0"] * (orientation > 1 and kind != "TIFF")
    )


def test_images_of_one_upright_size_are_read_together() -> None:
    lying = Image.fromarray(COLOR.transpose(1, 0, 2).copy())
    pixels, remarks = read(encoded(Image.fromarray(COLOR)), *[encoded(lying, exif=exif(6))] * 2)
    assert pixels.shape == (3, 3, 4, 6) and remarks == [
        "2 images were turned upright by EXIF orientation: image 1 and 1 more"
    ]
    with pytest.raises(DataError, match="image 1 is 4×6 pixels, but image 0 is 6×4"):
        read(encoded(Image.fromarray(COLOR)), encoded(lying))


TRANSPARENT = "1 image was read without transparency: image 0"
ALPHA = Image.fromarray(np.dstack([COLOR, GRAY // 2]))


@pytest.mark.parametrize(
    ("data", "channels", "remarks"),
    [
        (encoded(Image.fromarray(GRAY)), 1, []),
        (encoded(Image.fromarray(GRAY).convert("1")), 1, []),
        (encoded(Image.fromarray(COLOR).quantize(8)), 3, []),
        (encoded(Image.fromarray(COLOR).convert("RGBA")), 3, []),
        (encoded(Image.fromarray(COLOR), "BMP"), 3, []),
        (encoded(ALPHA), 3, [TRANSPARENT]),
        (encoded(ALPHA.convert("LA")), 1, [TRANSPARENT]),
        (encoded(Image.fromarray(GRAY), transparency=int(GRAY[0, 0])), 1, [TRANSPARENT]),
        (encoded(Image.fromarray(COLOR).quantize(8), transparency=bytes([0] * 8)), 3, [TRANSPARENT]),
        (
            encoded(Image.fromarray(COLOR).convert("CMYK"), "JPEG"),
            3,
            ["1 image was converted from CMYK to RGB: image 0"],
        ),
        *(
            (
                encoded(Image.fromarray(COLOR), kind, save_all=True, append_images=[Image.fromarray(255 - COLOR)]),
                3,
                ["1 image was read without later frames: image 0"],
            )
            for kind in ("GIF", "PNG", "WEBP", "TIFF")
        ),
    ],
)
def test_what_is_done_to_images_is_remarked(data: bytes, channels: int, remarks: list[str]) -> None:
    pixels, found = read(data)
    mode = "RGB" if channels == 3 else "L"
    want = Image.open(io.BytesIO(data)).convert("RGBA" if channels == 3 else "LA").convert(mode)
    assert np.array_equal(pixels[0].permute(1, 2, 0), np.asarray(want).reshape(4, 6, channels)) and found == remarks


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_gray_images_among_colored_ones_become_rgb(order: tuple[int, int]) -> None:
    files = [encoded(Image.fromarray(GRAY)), encoded(Image.fromarray(COLOR))]
    pixels, remarks = read(*(files[position] for position in order))
    gray = order.index(0)
    assert torch.equal(pixels[gray], torch.from_numpy(GRAY).expand(3, 4, 6))
    assert np.array_equal(pixels[1 - gray].permute(1, 2, 0), COLOR)
    assert remarks == [f"1 image was converted from gray to RGB, since others have color: image {gray}"]


@pytest.mark.parametrize(
    "data",
    [
        *(png(6, 4, 16, kind, (b"\0" + bytes(12 * n)) * 4) for kind, n in ((0, 1), (2, 3), (4, 2), (6, 4))),
        b"P6 6 4 65535\n" + bytes(6 * 4 * 6),
        encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(GRAY.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(COLOR).convert("LAB"), "TIFF"),
    ],
)
def test_pixels_that_do_not_fit_into_8_bits_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"image 0 has pixels of mode .*; save it with 8 bits per channel"):
        read(data)


def test_sizes_are_checked_before_pixels_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="image 0 is too large"):
        read(png(150_000, 150_000, 8, 2, b""))
    monkeypatch.setattr("fedloru.data.memory.memory", lambda: 2**20)
    for files in ([png(400, 400, 8, 2, b"")], [encoded(Image.fromarray(GRAY))] * 10_000):
        with pytest.raises(DataError, match=r"images like image 0 would need \d.* GiB of memory"):
            read(*files)


@pytest.mark.parametrize("kind", ["EPS", "JPEG2000"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(DataError, match="cannot be read as an image of the format BMP, GIF"):
        read(encoded(Image.fromarray(COLOR), kind))


@pytest.mark.parametrize("size", [3, 8])
def test_images_of_any_size_are_resized_by_an_antialiased_bilinear_filter(size: int) -> None:
    tall = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    remarks: list[str] = []
    files = [encoded(Image.fromarray(COLOR)), encoded(Image.fromarray(tall)), encoded(Image.fromarray(GRAY))]
    made = decode(files, lambda row: f"image {row}", remarks, size)
    assert made.shape == (3, 3, size, size)
    for pixels, found in zip((COLOR, tall), made[:2], strict=True):
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        want = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
        assert (want[0] - found).abs().max() <= 1
    assert "2 images were stretched, since they are not square: image 0 and 1 more" in remarks


def test_an_image_that_has_the_size_is_not_changed() -> None:
    square = np.ascontiguousarray(COLOR[:, :4])
    assert np.array_equal(decode([encoded(Image.fromarray(square))], str, None, 4)[0].permute(1, 2, 0), square)
