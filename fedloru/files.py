"""Atomic file operations, and the permissions of files."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write ``data`` to ``path`` atomically: after a crash, the file has its old contents or all of ``data``.

    With ``private``, only the owner can read the file, if the file system has such permissions.

    Raises:
        OSError: the folder does not exist, or is not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if private:
            temporary.touch(0o600)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def private_folder(path: Path) -> None:
    """Create ``path`` and its parents; only the owner can open it, where the file system has such permissions.

    Raises:
        OSError: it cannot be created.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(OSError):  # it existed, and belongs to another user
        path.chmod(0o700)


def share_like(folder: Path, example: Path) -> None:
    """Give every file in ``folder`` the permissions of the file ``example``, where the file system has permissions."""
    mode = example.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with suppress(OSError):
                path.chmod(mode)


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
