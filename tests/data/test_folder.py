from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedloru.data import load
from fedloru.errors import DataError


def images(place: Path, folders: Iterable[str], count: int = 4, color: bool = False) -> None:
    for number, folder in enumerate(folders):
        (place / folder).mkdir(parents=True, exist_ok=True)
        for row in range(count):
            pixels = np.full((4, 4, 3) if color else (4, 4), 20 * number + row, np.uint8)
            Image.fromarray(pixels).save(place / folder / f"{row}.png")


@pytest.mark.parametrize(
    ("folders", "settings", "classes", "count"),
    [
        (["bus", "train"], {}, ("bus", "train"), 8),
        (["train/bus", "train/train", "test/bus", "test/train"], {}, ("bus", "train"), 16),
        (["train/bus", "train/tram", "test/bus", "test/tram", "samples"], {}, ("bus", "tram"), 16),
        (["train", "test"], {"layout": "classes"}, ("test", "train"), 8),
        (["bus", "test"], {"layout": "classes"}, ("bus", "test"), 8),
        (["train/bus", "train/tram", "bus"], {"layout": "splits"}, ("bus", "tram"), 8),
    ],
)
def test_layouts(
    tmp_path: Path, folders: list[str], settings: dict[str, str], classes: tuple[str, ...], count: int
) -> None:
    images(tmp_path, folders)
    data = load("folder", path=str(tmp_path), **settings)
    assert data.classes == classes and len(data.train["y"]) + len(data.test["y"]) == count


@pytest.mark.parametrize(
    "folders",
    [
        ["train", "test"],
        ["train", "test", "bus"],
        ["bus", "test"],
        ["train/bus", "train/tram", "test"],
        ["train/bus", "train/tram", "bus"],
        ["train/bus", "train", "tram"],
        ["bus", "test/bus"],
    ],
)
def test_layouts_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, folders: list[str]) -> None:
    images(tmp_path, folders)
    with pytest.raises(DataError, match=r"can be read in two ways.*; set data.layout to"):
        load("folder", path=str(tmp_path))


def test_what_is_not_read_is_counted_and_named(tmp_path: Path) -> None:
    images(tmp_path, ["cat", "dog", "cat/kitten", ".cache"])
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "cat/._0.png", "dog/Thumbs.db", "dog/a.webp"):
        (tmp_path / name).write_bytes(b"")
    data = load("folder", path=str(tmp_path))
    place = f"in {tmp_path}"
    assert data.classes == ("cat", "dog") and sorted(data.remarks) == [
        f"1 item not read (a class without images, {place}): empty",
        f"1 item not read (a nested folder, {place}): cat/kitten",
        f"1 item not read (not in the folder of a class, {place}): notes.txt",
        f"2 items not read (hidden, {place}): .cache, cat/._0.png",
        f"2 items not read (not .jpeg, .jpg, .png, {place}): dog/Thumbs.db, dog/a.webp",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes")
def test_only_regular_files_are_read(tmp_path: Path) -> None:
    place = tmp_path / "data"
    images(place, ["cat", "dog"])
    images(tmp_path, ["outside"], 1)
    os.mkfifo(place / "cat" / "pipe.png")
    (place / "cat" / "zero.png").symlink_to("/dev/zero")
    (place / "cat" / "loop.png").symlink_to("loop.png")
    (place / "dog" / "linked.png").symlink_to(tmp_path / "outside" / "0.png")
    data = load("folder", path=str(place))
    assert len(data.train["y"]) + len(data.test["y"]) == 9
    assert data.remarks == (
        f"3 items not read (not a regular file, in {place}): cat/loop.png, cat/pipe.png, cat/zero.png",
        f"1 image is a link to a file outside of {place}: {place / 'dog' / 'linked.png'}",
    )
    with pytest.raises(DataError, match="not a regular file"):
        load("npz", path=str(place / "cat" / "pipe.png"))


def test_files_larger_than_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path, ["cat", "dog"])
    monkeypatch.setattr("fedloru.data.folder.memory", lambda: 100)
    with pytest.raises(DataError, match="do not fit into memory"):
        load("folder", path=str(tmp_path))


def test_gray_and_colored_splits_are_read_alike(tmp_path: Path) -> None:
    images(tmp_path / "train", ["cat", "dog"], color=True)
    images(tmp_path / "test", ["cat", "dog"])
    data = load("folder", path=str(tmp_path))
    assert data.test["x"].shape == (8, 3, 4, 4) and data.remarks == ("all test images were converted from gray to RGB",)
