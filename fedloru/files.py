"""Atomic file operations."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically: after a crash, the file has its old contents or all of ``data``.

    Raises:
        OSError: the folder does not exist, or is not writable.
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
    """Rename ``source`` to ``target`` in the same folder, replacing it; the change is on disk when this returns.

    Raises:
        OSError: ``source`` does not exist, or the folder is not writable.
    """
    source.replace(target)
    _sync_folder(target.parent)


def remove(path: Path) -> None:
    """Remove ``path`` if it exists; the change is on disk when this returns."""
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # A rename survives a crash only once the folder's entry is on disk.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
