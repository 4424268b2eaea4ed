"""Damaged arrays and images are read as they were, or refused with the package's own error."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedloru.data import Dataset, load
from fedloru.data.images import decode
from fedloru.errors import FedloruError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
HEAD = 160
"""Half of the mutations are in the first bytes, where headers are."""


def saved(save: Any, *args: Any, **settings: Any) -> bytes:
    out = io.BytesIO()
    save(out, *args, **settings)
    return out.getvalue()


ARCHIVES = [
    saved(save, x=PIXELS[..., 0], y=np.arange(6) % 2, site=np.array(["a", "b"] * 3))
    for save in (np.savez, np.savez_compressed)
]
IMAGES = {
    "png": saved(Image.fromarray(PIXELS).save, "PNG"),
    "palette": saved(Image.fromarray(PIXELS).quantize(8).save, "PNG", transparency=0),
    "jpeg": saved(Image.fromarray(PIXELS).save, "JPEG", exif=Image.Exif().tobytes()),
    "gif": saved(Image.fromarray(PIXELS).save, "GIF"),
    "tiff": saved(Image.fromarray(PIXELS).save, "TIFF"),
    "webp": saved(Image.fromarray(PIXELS).save, "WEBP"),
    "bmp": saved(Image.fromarray(PIXELS).save, "BMP"),
    "ppm": saved(Image.fromarray(PIXELS).save, "PPM"),
}


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.one_of(st.integers(0, min(HEAD, len(data)) - 1), st.integers(0, len(data) - 1)))
        match draw(st.sampled_from(["set", "cut", "insert", "remove"])):
            case "set":
                data[place] = draw(st.integers(0, 255))
            case "cut":
                del data[max(place, 1) :]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "remove":
                del data[place : place + draw(st.integers(1, min(8, max(len(data) - 1, 1))))]
        if not data:
            return b""
    return bytes(data)


def fuzzed(test: Any, files: list[bytes], examples: int) -> None:
    unhurried = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    unhurried(given(data=damaged(files))(test))()


def read_image(data: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = decode([data], str)
    except FedloruError:
        return
    assert pixels.ndim == 4 and pixels.shape[1] in (1, 3)


def load_archive(place: Path, data: bytes) -> Dataset:
    place.write_bytes(data)
    return load("npz", path=str(place), columns=["site"], test_fraction=0.4)


def read_archive(place: Path, data: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = load_archive(place, data)
    except FedloruError:
        return
    intact = load_archive(place, ARCHIVES[0])
    assert torch.equal(made.train["x"], intact.train["x"]) and made[3:5] == intact[3:5]


@pytest.mark.parametrize("kind", IMAGES)
def test_damaged_images(kind: str) -> None:
    fuzzed(read_image, [IMAGES[kind]], 40)


def test_damaged_archives(tmp_path: Path) -> None:
    fuzzed(lambda data: read_archive(tmp_path / "a.npz", data), ARCHIVES, 150)


@pytest.mark.parametrize("examples", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_images_in_folders(tmp_path: Path, examples: int) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for row in range(2):
            (tmp_path / kind / f"{row}.png").write_bytes(IMAGES["png"])

    def read(data: bytes) -> None:
        (tmp_path / "cat" / "0.png").write_bytes(data)
        try:
            made = load("folder", path=str(tmp_path), test_fraction=0.5)
        except FedloruError:
            return
        assert made.classes == ("cat", "dog") and made.train["x"].shape == (2, 3, 6, 6)

    fuzzed(read, [IMAGES["png"]], examples)


@pytest.mark.slow
@pytest.mark.parametrize("kind", IMAGES)
def test_damaged_images_for_longer(kind: str) -> None:
    fuzzed(read_image, [IMAGES[kind]], 3000)


@pytest.mark.slow
def test_damaged_archives_for_longer(tmp_path: Path) -> None:
    fuzzed(lambda data: read_archive(tmp_path / "a.npz", data), ARCHIVES, 5000)
