"""Read images from folders, one per class. What is not read is counted and named."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from fedloru.data.images import decode, same_channels
from fedloru.data.memory import memory
from fedloru.data.paths import read_file
from fedloru.data.raw import Raw, Rows, unread
from fedloru.errors import DataError, listed, plain
from fedloru.settings.types import Count, Text

Layout = Literal["auto", "splits", "classes"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
SPLITS = ("train", "test")


def folder(*, path: Text, layout: Layout = "auto", size: Count | None = None) -> Raw:
    """Read images from ``path/train/CLASS`` and ``path/test/CLASS``, or from ``path/CLASS``.

    Images are PNG or JPEG files with up to 8 bits per channel, of the same size or resized. They are turned upright, as
    their EXIF orientation says. Hidden files, other files and images in deeper folders are not read.

    Args:
        path: the folder, relative to the working directory.
        layout: whether path contains splits (train and test) or classes; by default as found, and a folder that can be
            read in two ways is refused.
        size: the height and width to which images are resized, by an antialiased bilinear filter; images that are not
            square are stretched. By default, all images must have the same size.

    Raises:
        DataError: the folder is missing or contains no images, can be read in two ways, or the images differ in size,
            cannot be read, or do not fit into memory.
        MissingExtraError: pillow is not installed.
    """
    place = Path(path)
    if not place.is_dir():
        raise DataError(f"there is no folder {place}; check data.path")
    found = _found(place) if layout == "auto" else layout
    if found == "classes":
        return _read((_scan(place),), size)
    if not (place / "train").is_dir():
        raise DataError(f"{place} has no folder 'train': add it, or set data.layout to 'classes'")
    splits = tuple(_scan(place / name) for name in SPLITS if (place / name).is_dir())
    others = [entry.name for entry in _entries(place) if entry.name not in SPLITS]
    return _read(splits, size, unread(list(map(plain, others)), f"not in {' or '.join(SPLITS)}", "item"))


class _Scan(NamedTuple):
    """The images of a folder of classes, and what is not read, each by its reason."""

    place: Path
    images: list[Path]
    others: dict[str, list[str]]


def _found(place: Path) -> Layout:
    """Return the layout of ``place``, which must not be ambiguous."""
    folders = [entry.name for entry in _entries(place) if _is_folder(entry)]
    classes = {name for name in folders if any(not _reason(entry) for entry in _entries(place / name))}
    splits = {name for name in SPLITS if name in folders and _scan(place / name).images}
    is_class = "test" not in classes and classes != {"train"}  # a class may be called "train"
    if not splits and (classes.isdisjoint(SPLITS) or is_class):
        return "classes"
    if "train" in splits and classes.isdisjoint(SPLITS) and ("test" in splits or not classes):
        return "splits"
    doubtful = " and ".join(sorted((splits | classes) & set(SPLITS)))
    raise DataError(
        f"{place} can be read in two ways, since {doubtful} may stand for splits or for classes; set data.layout to "
        "'splits' (train/CLASS/NAME.png) or 'classes' (CLASS/NAME.png)"
    )


def _read(splits: Sequence[_Scan], size: int | None, others: Sequence[str] = ()) -> Raw:
    remarks = list(others)
    for scan in splits:
        for reason, names in scan.others.items():
            remarks += unread(names, f"{reason}, in {scan.place}", "item")
    train, *test = [_rows(scan, remarks, size) for scan in splits]
    return same_channels(Raw(train, test[0] if test else None, remarks=tuple(remarks)))


def _rows(scan: _Scan, remarks: list[str], size: int | None) -> Rows:
    if not scan.images:
        instead = "".join(
            f"; {remark}" for reason, names in scan.others.items() for remark in unread(names, reason, "item")
        )
        raise DataError(
            f"{scan.place} contains no images; expected {scan.place}/CLASS/NAME.png (or .jpg, .jpeg){instead}"
        )
    if sum(file.stat().st_size for file in scan.images) > memory():
        raise DataError(f"the images in {scan.place} do not fit into memory; use fewer or smaller images")
    if outside := [str(file) for file in scan.images if _leads_out(file, scan.place)]:
        links = "1 image is a link to a file" if len(outside) == 1 else f"{len(outside):,} images are links to files"
        remarks.append(f"{links} outside of {scan.place}: {listed(outside)}")
    x = decode([read_file(file) for file in scan.images], lambda row: str(scan.images[row]), remarks, size)
    return Rows(x, np.array([file.parent.name for file in scan.images]))


def _scan(place: Path) -> _Scan:
    images: list[Path] = []
    others: dict[str, list[str]] = {}
    for entry in _entries(place):
        if entry.name.startswith("."):
            others.setdefault("hidden", []).append(plain(entry.name))
        elif not _is_folder(entry):
            others.setdefault("not in the folder of a class", []).append(plain(entry.name))
        else:
            inside = [(place / entry.name / each.name, _reason(each)) for each in _entries(place / entry.name)]
            images += [file for file, reason in inside if not reason]
            for file, reason in inside:
                if reason:
                    others.setdefault(reason, []).append(plain(f"{entry.name}/{file.name}"))
            if all(reason for _, reason in inside):
                others.setdefault("a class without images", []).append(plain(entry.name))
    return _Scan(place, sorted(images), others)


def _reason(entry: os.DirEntry[str]) -> str:
    """Return the reason not to read an entry of a class's folder; "" for an image."""
    if entry.name.startswith("."):
        return "hidden"
    if _is_folder(entry):
        return "a nested folder"
    if Path(entry.name).suffix.lower() not in SUFFIXES:
        return f"not {', '.join(sorted(SUFFIXES))}"
    return "" if _holds(entry.is_file) else "not a regular file"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return _holds(entry.is_dir)


def _holds(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # such as a link to itself
        return False


def _leads_out(file: Path, place: Path) -> bool:
    return (file.is_symlink() or file.parent.is_symlink()) and not file.resolve().is_relative_to(place.resolve())


def _entries(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {place} cannot be read: {error.strerror or error}; make it readable") from error
