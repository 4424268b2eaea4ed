"""Check files before they are read: files that a user names, and files that the data names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fedloru.data.memory import memory
from fedloru.data.raw import unread
from fedloru.errors import DataError, quoted

MAX_NAMED = 2**28
"""The maximum size of a file that the data names, in bytes."""

ABOUT = ("readme", "license", "licence", "copying", "citation", "dataset_infos.json", ".gitattributes", ".gitignore")
"""The starts of the names of files that describe a data set; they are not reported as unread."""


def regular(path: Path, most: int | None = None) -> Path:
    """Return ``path`` if it is a regular file of at most ``most`` bytes.

    Raises:
        DataError: it does not exist, is a folder, a device or a pipe, or is larger.
    """
    try:
        if not path.is_file():
            problem = "is not a regular file" if path.exists() else "does not exist"
            raise DataError(f"{path} {problem}: name a file")
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL character
        raise DataError(f"{quoted(str(path), 200)} cannot be opened: {_reason(error)}") from error
    if most is not None and size > most:
        raise DataError(f"{path} has {size:,} bytes, but at most {most:,} are read: split it into smaller files")
    return path


def read_file(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        DataError: it is missing, is not a regular file, is larger than memory, or cannot be read.
    """
    try:
        size = regular(path, memory()).stat().st_size
        with path.open("rb") as opened:
            return opened.read(size)  # a file that grows, such as a log, is not read forever
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; make it readable or remove it") from error


def _reason(error: Exception) -> str:
    """Return the message of an error, without the path that the message of an ``OSError`` ends with."""
    return getattr(error, "strerror", None) or str(error)


class Folders:
    """The folders in which data may name files, and the files that were read.

    Args:
        folders: the folders; a relative path starts at the first.
    """

    def __init__(self, *folders: Path) -> None:
        self.folders = folders
        self.read_files: set[Path] = set()

    def read(self, path: str, where: str) -> bytes:
        """Return the content of the file ``path``, which the data at ``where`` names.

        The file must be in one of the folders after symbolic links are resolved, so that data cannot read other files
        of the machine.

        Raises:
            DataError: the file is elsewhere, does not exist, is not a regular file, or has more than ``MAX_NAMED``
                bytes.
        """
        shown = quoted(path, 200)
        try:
            place = Path(self.folders[0], path).resolve()
            inside = any(place.is_relative_to(folder.resolve()) for folder in self.folders)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{where} names the file {shown}, which cannot be opened: {_reason(error)}") from error
        if not inside:
            raise DataError(
                f"{where} names the file {shown}, which is not in the data's folder {self.folders[0]}: move it there, "
                "or store the content of files in the data"
            )
        try:
            content = regular(place, MAX_NAMED).read_bytes()
        except (DataError, OSError) as error:
            raise DataError(f"{where} names the file {shown}, which cannot be read: {_reason(error)}") from error
        self.read_files.add(place)
        return content


def unread_files(folder: Path, read: Iterable[Path], reason: str) -> tuple[str, ...]:
    """Return a remark on the files below ``folder`` that are not among ``read``; () if there are none.

    A hidden folder is named instead of its files. Files that describe a data set, such as README.md, are left out.
    """
    used, found = {path.resolve() for path in read}, []
    for place, folders, files in os.walk(folder):
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = sorted(set(folders) - set(hidden))
        others = [
            name for name in files if not name.lower().startswith(ABOUT) and Path(place, name).resolve() not in used
        ]
        found += [
            Path(place, name).relative_to(folder).as_posix() for name in (*others, *(f"{name}/" for name in hidden))
        ]
    return unread(sorted(found), reason, "item")
