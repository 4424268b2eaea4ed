"""Read files from the disk: regular files only, since reading a device or a pipe may never end."""

from __future__ import annotations

from pathlib import Path

from fedloru.data.memory import gib, memory
from fedloru.errors import DataError


def check_file(file: Path) -> None:
    """Check that ``file`` is a regular file, and not larger than memory.

    Raises:
        DataError: it is missing, is not a regular file, or is too large.
    """
    if not file.is_file():
        if file.exists():
            raise DataError(f"{file} is not a regular file; check data.path")
        raise DataError(f"there is no file {file}; check data.path")
    if (size := file.stat().st_size) > memory():
        raise DataError(f"{file} has {gib(size)}, but there are {gib(memory())} of memory; use a smaller file")


def read_file(file: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        DataError: it is missing, is not a regular file, is too large, or cannot be read.
    """
    try:
        check_file(file)
        with file.open("rb") as opened:
            return opened.read(file.stat().st_size)  # a file that grows, such as a log, is not read forever
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}; make it readable or remove it") from error


def printable(name: str) -> str:
    """Return a name from a file for messages: cut to 100 characters, without control characters."""
    shown = "".join(character if character.isprintable() else "�" for character in name)
    return shown if len(shown) <= 100 else f"{shown[:99]}…"
