"""Run folder locks: only one process writes to a run folder at a time.

The lock is held by the operating system (flock, or LockFileEx on Windows), so it is released if the process is killed.
On a file system without flock, filelock falls back to a lock file, and takes over the lock of a process of this machine
that no longer exists.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fedloru.errors import RunFolderError, plain, quoted
from fedloru.files import write_atomic
from fedloru.reading import UnreadableError, read_json

LOCK, WRITER = ".lock", ".writer.json"
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Error numbers of a network file system that is mounted without locks."""

log = logging.getLogger(__name__)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Prevent other processes from writing to ``folder`` inside the context; readers need no lock.

    Raises:
        RunFolderError: another run, in this or another process, is writing to the folder.
        OSError: the folder does not exist, or is not writable.
    """
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunFolderError(
            f"{folder} is in use: {_writer(folder)} is writing to it. Wait until it is done, or stop it, then try "
            f"again; if its machine has crashed, remove {folder / LOCK}"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning(
            "the file system of %s does not support locks: make sure that no other process writes to this folder",
            folder,
        )
    try:
        write_atomic(folder / WRITER, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        with suppress(OSError):
            (folder / WRITER).unlink()
        lock.release()


def in_use(folder: Path) -> bool:
    """Return whether a process is writing to ``folder``."""
    try:
        with FileLock(folder / LOCK, thread_local=False).acquire(blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # the folder does not exist, or belongs to another user
        return False


def _writer(folder: Path) -> str:
    try:
        writer = read_json(folder / WRITER, dict)
        return f"process {quoted(writer['pid'])} on {plain(str(writer['host']))}"
    except (OSError, UnreadableError, KeyError):
        return "another process"
