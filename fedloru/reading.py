"""Read files that may be damaged or hostile: the sizes that a file states are checked before memory is allocated.

A run folder or an adapter may come from another machine. Every function either returns the content or raises
``UnreadableError``, whose message says in a phrase what is wrong; the caller adds which file it is and what to do.
"""

from __future__ import annotations

import json
import stat
import tomllib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from torch import Tensor

from fedloru.errors import plain

LIMIT = 2**30
"""The largest text file that is read, in bytes."""
MAX_HEADER = 100_000_000
"""The largest header that the safetensors format allows, in bytes."""

T = TypeVar("T")


class UnreadableError(ValueError):
    """The content of a file is not what it should be, or is too large."""


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """Return the content of a regular file, or of a link to one.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: it is a folder, a device or a pipe, is longer than ``limit``, or cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableError("it is not a regular file")
        if limit is not None and found.st_size > limit:
            raise UnreadableError(f"it has {found.st_size} bytes, expected at most {limit}")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(error.strerror or "it cannot be read") from error
    except MemoryError as error:
        raise UnreadableError("it does not fit into memory") from error


def parse_json(data: bytes, kind: type[T]) -> T:
    """Return the JSON value in ``data``, which must be of the type ``kind``.

    Raises:
        UnreadableError: it is not JSON in UTF-8, is nested too deeply, or is of another type.
    """
    value = _parsed("JSON", lambda: json.loads(data.decode()))
    if not isinstance(value, kind):
        raise UnreadableError(f"it holds {type(value).__name__}, expected {kind.__name__}")
    return value


def read_json(path: Path, kind: type[T]) -> T:
    """Return the JSON value in a file; see ``read_bytes`` and ``parse_json``."""
    return parse_json(read_bytes(path, LIMIT), kind)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table in a TOML file; see ``read_bytes``.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: it is not TOML in UTF-8, or is nested too deeply.
    """
    return parse_toml(read_bytes(path, LIMIT))


def parse_toml(data: bytes | str) -> dict[str, Any]:
    """Return the table in ``data``.

    A byte order mark, which editors on Windows write, is skipped.

    Raises:
        UnreadableError: it is not TOML in UTF-8, or is nested too deeply.
    """
    return _parsed("TOML", lambda: tomllib.loads(data if isinstance(data, str) else data.decode("utf-8-sig")))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata in a safetensors file.

    The sizes in its header are compared with the size of the file before anything is allocated.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: it is not a complete safetensors file, or does not fit into memory.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                _check_sizes(_header(file.read), path.stat().st_size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(error.strerror or "it cannot be read") from error
    return parse_tensors(read_bytes(path))


def parse_tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata in the bytes of a safetensors file, sorted by name.

    Raises:
        UnreadableError: they are not complete, or do not fit into memory.
    """
    table, length = _header(BytesIO(data).read)
    _check_sizes((table, length), len(data))
    tensors = _parsed("safetensors", lambda: safetensors.torch.load(data))
    return dict(sorted(tensors.items())), table.get("__metadata__", {})


def _header(read: Callable[[int], bytes]) -> tuple[dict[str, Any], int]:
    """Return the table in the header of a safetensors file, and its length in bytes; ``read`` reads the next bytes."""
    length = int.from_bytes(read(8), "little")
    if length > MAX_HEADER:
        raise UnreadableError(f"its header has a length of {length} bytes, expected at most {MAX_HEADER}")
    head = read(length)
    if len(head) < length:
        raise UnreadableError(f"it is incomplete: its header has {len(head)} of {length} bytes")
    return parse_json(head, dict), length


def _check_sizes(header: tuple[dict[str, Any], int], size: int) -> None:
    """Compare the end of the last tensor with the size of the file."""
    table, length = header
    entries = (entry for name, entry in table.items() if name != "__metadata__")
    end = _parsed("safetensors", lambda: max((int(entry["data_offsets"][1]) for entry in entries), default=0))
    if 8 + length + end != size:
        raise UnreadableError(f"it has {size} bytes, but its header describes {8 + length + end}")


def _parsed(format: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except MemoryError as error:
        raise UnreadableError("it does not fit into memory") from error
    except RecursionError as error:
        raise UnreadableError(f"it is not valid {format}: it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"it is not UTF-8 text (byte 0x{error.object[error.start]:02x}): save it as UTF-8"
        ) from error
    except Exception as error:  # the parsers do not document what they raise on arbitrary bytes
        raise UnreadableError(f"it is not valid {format}: {plain(str(error), 200)}") from error
