"""Files that are written whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds, after a crash at any moment, what it held before or all of ``data``.

    Raises:
        OSError: the folder is missing, or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def rename(source: Path, target: Path) -> None:
    """Put ``source`` in the place of ``target``, a file of the same folder, on the disk when this returns.

    Raises:
        OSError: there is no ``source``, or the folder cannot be written to.
    """
    source.replace(target)
    _sync_folder(target.parent)


def remove(path: Path) -> None:
    """Remove ``path`` if it is there, for good when this returns."""
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # The rename itself is safe only once the folder's entry is on the disk.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
