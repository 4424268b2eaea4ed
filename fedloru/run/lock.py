"""One writer to a run folder at a time.

The operating system keeps the lock (flock, or LockFileEx on Windows), so a process that is killed lets go of it. Where
a file system has no flock, filelock falls back to a file whose existence is the lock, and takes it from a process of
this machine that is gone.
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

from fedloru.errors import RunFolderError
from fedloru.files import write_atomic

LOCK, WRITER = ".lock", ".writer.json"
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a network file system answers that is mounted without locks."""

log = logging.getLogger(__name__)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to ``folder`` for a while; readers need no leave.

    Raises:
        RunFolderError: another run, here or in another process, writes to it.
        OSError: the folder is missing, or cannot be written to.
    """
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunFolderError(
            f"{folder} is in use: {_writer(folder)} writes to it. Wait until it is done, or stop it there, then try "
            f"again; if it died with its machine, remove {folder / LOCK}"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("the file system of %s has no locks: see to it that no other process writes there", folder)
    try:
        write_atomic(folder / WRITER, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        with suppress(OSError):
            (folder / WRITER).unlink()
        lock.release()


def _writer(folder: Path) -> str:
    try:
        who = json.loads((folder / WRITER).read_bytes())
        return f"process {who['pid']} on {who['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
