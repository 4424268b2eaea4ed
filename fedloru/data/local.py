"""Read files from the disk, and name them in messages."""

from __future__ import annotations

from pathlib import Path

from fedloru.data.memory import memory
from fedloru.data.paths import regular
from fedloru.errors import DataError


def read_file(file: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        DataError: it is missing, is not a regular file, is larger than memory, or cannot be read.
    """
    try:
        size = regular(file, memory()).stat().st_size
        with file.open("rb") as opened:
            return opened.read(size)  # a file that grows, such as a log, is not read forever
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}; make it readable or remove it") from error


def printable(name: str) -> str:
    """Return a name from a file for messages: cut to 100 characters, without control characters."""
    shown = "".join(character if character.isprintable() else "�" for character in name)
    return shown if len(shown) <= 100 else f"{shown[:99]}…"
