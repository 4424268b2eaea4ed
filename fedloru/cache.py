"""A cache of what was read from files: parsed images and tokenized texts, in the user's cache directory.

An entry is one safetensors file, named by a hash of everything that its content follows from. A cache can only save
time: an entry that is damaged, incomplete or not what it should be is made again, and a folder that cannot be written
to stays empty. Entries are replaced atomically, so runs can share them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from fedloru.files import private_folder, write_atomic
from fedloru.reading import UnreadableError, parse_json, read_tensors

VARIABLE = "FEDLORU_CACHE"
"""The environment variable with the folder of the cache; ``off``, or an empty value, disables it."""
LIMIT = 2**30
"""The largest size of all entries, in bytes; those that were not used for longest are removed first."""
FACTS, CHECK = "facts", "check"

T = TypeVar("T")


class Entry(NamedTuple):
    """What is kept: tensors, and facts as JSON."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = {}


def folder() -> Path | None:
    """Return the folder of the cache; None if it is disabled, or if the user has no home."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen and chosen.lower() != "off" else None
    with suppress(RuntimeError):  # there is no home
        return _user_caches() / "fedloru"
    return None


def cached(
    name: str,
    parts: Iterable[bytes | str],
    make: Callable[[], T],
    pack: Callable[[T], Entry],
    unpack: Callable[[Entry], T],
) -> T:
    """Return what ``make`` returns, from the cache if it is there.

    Args:
        name: the kind of entry; its file is called after it.
        parts: everything that the content follows from, including the version of the code that makes it.
        make: makes the value.
        pack: returns a value as an entry.
        unpack: returns the value of an entry, or raises ValueError if it is not one that ``pack`` returns. The entry
            comes from a file that anybody may have changed.
    """
    place = folder()
    if place is None:
        return make()
    path = place / f"{name}-{_hash(parts)}.safetensors"
    with suppress(OSError, ValueError):
        return unpack(_read(path))
    value = make()
    with suppress(OSError):
        _write(path, pack(value))
    return value


def _read(path: Path) -> Entry:
    if path.stat().st_size > LIMIT:
        raise UnreadableError("it is too large")
    tensors, described = read_tensors(path)
    facts = described.get(FACTS, "")
    if described.get(CHECK) != _check(tensors, facts):
        raise UnreadableError("it is damaged")
    with suppress(OSError):
        os.utime(path)  # it was used
    return Entry(tensors, parse_json(facts.encode(), dict))


def _write(path: Path, entry: Entry) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in sorted(entry.tensors.items())}
    facts = json.dumps(entry.facts)
    data = safetensors.torch.save(tensors, {FACTS: facts, CHECK: _check(tensors, facts)})
    if len(data) <= LIMIT // 4:
        private_folder(path.parent)
        write_atomic(path, data, private=True)
        _trim(path.parent)


def _trim(place: Path) -> None:
    """Remove the entries that were not used for longest, until the others fit into the limit."""
    found = sorted(((file, file.stat()) for file in place.glob("*.safetensors")), key=lambda each: -each[1].st_mtime)
    used = 0
    for file, state in found:
        used += state.st_size
        if used > LIMIT:
            file.unlink(missing_ok=True)


def _check(tensors: Mapping[str, Tensor], facts: str) -> str:
    parts: list[bytes | str] = [facts]
    for name, tensor in tensors.items():
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor.flatten().view(torch.uint8).numpy().tobytes()]
    return _hash(parts)


def _hash(parts: Iterable[bytes | str]) -> str:
    found = hashlib.blake2b(digest_size=20)
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


def _user_caches() -> Path:
    """Return the folder in which the programs of the user keep caches."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return chosen if chosen.is_absolute() else Path.home() / ".cache"
