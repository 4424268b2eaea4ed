"""Read and write the files of certificates and keys."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from fedloru.errors import CredentialError
from fedloru.files import write_atomic
from fedloru.reading import UnreadableError, read_bytes

LIMIT = 2**16
"""The largest file with a key that is read, in bytes."""

log = logging.getLogger("fedloru")


def write_new(files: Mapping[Path, bytes], private: Collection[Path] = ()) -> None:
    """Write files that must not exist yet, all or none; only the owner can read the ``private`` ones.

    Raises:
        CredentialError: a file exists.
        OSError: a folder does not exist, or is not writable.
    """
    for path in files:
        if path.exists() or path.is_symlink():
            raise CredentialError(f"{path} exists already, and is never overwritten: move it away, or name another")
    written = []
    try:
        for path, data in files.items():
            write_atomic(path, data, private=path in private)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def read_credential(path: Path, kind: str, limit: int = LIMIT, *, private: bool = False) -> bytes:
    """Return the content of a file with a certificate or key.

    Args:
        path: the file.
        kind: what it should hold, for messages.
        limit: the largest size, in bytes.
        private: warn if other users can read it.

    Raises:
        CredentialError: it is missing, too large, or cannot be read.
    """
    try:
        data = read_bytes(path, limit)
    except FileNotFoundError as error:
        raise CredentialError(f"there is no file {path}, expected a {kind}") from error
    except UnreadableError as error:
        raise CredentialError(f"{path} is not a {kind}: {error}") from error
    if private and os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        log.warning("other users may read the private key %s: run `chmod 600 %s`", path, path)
    return data
