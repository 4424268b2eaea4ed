"""The state directory of a client: what it keeps between messages, and after it was killed.

::

    terms.json                 the federation: the last Hello
    base.json                  the version and the hash of the base, and the file of its weights
    base-000003.safetensors    those weights that differ from W₀; none at version 0
    private/000000/…           the tensors that a method keeps on the client, by round
    reply.json, reply.bin      the last reply, which is sent again if the same order arrives again
    usage.json                 what the client has done today
    node.json                  the client's number in Flower

Every file is written atomically, ``base.json`` after the file it names, so an interrupted client finds the old state
or the new one. One process uses the directory at a time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from pydantic import BaseModel, ConfigDict, ValidationError

from fedloru.errors import ConfigError, RunFolderError
from fedloru.files import private_folder, write_atomic
from fedloru.flower.protocol import Count, Hello, Report
from fedloru.reading import UnreadableError, parse_tensors, read_bytes, read_json
from fedloru.run.client_state import OnDisk
from fedloru.run.lock import alone
from fedloru.tree import Params

TERMS, BASE, USAGE, NODE = "terms.json", "base.json", "usage.json", "node.json"
REPLY, TENSORS = "reply.json", "reply.bin"

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """The base that a client holds: its version, the hash of the weights that merges change, and those weights.

    ``weights`` are all frozen weights if the client cannot build W₀ itself.
    """

    version: int
    hash: str
    weights: Params


class _Usage(BaseModel):
    """The types of the entries of ``usage.json``."""

    model_config = ConfigDict(strict=True)
    rounds: Count = 0
    day: str = ""
    bytes: Count = 0


_LOST = {
    TERMS: "then start the client again, so that it receives the terms of the federation",
    USAGE: "the client then counts its rounds and the bytes of today from 0",
    BASE: "the client then receives the weights again",
    REPLY: "the client then trains again",
    NODE: "the client is then connected after a minute",
}
"""What happens if a file of the state directory is removed."""


class Usage(NamedTuple):
    """What a client has done: all rounds, and the bytes of a day."""

    rounds: int = 0
    day: str = ""
    bytes: int = 0


class StateFolder:
    """The state directory at ``path``, which is created if it does not exist.

    ``private`` is where the tensors are that a method keeps on the client; by default in ``path``.

    Raises:
        ConfigError: ``path`` is a file.
        OSError: it cannot be created.
    """

    def __init__(self, path: Path, private: Path | None = None) -> None:
        self.path, self._private = path, private or path / "private"
        if path.exists() and not path.is_dir():
            raise ConfigError([f"{path} is a file: name a folder for the state of this client"], "--state")
        if not path.exists():  # the permissions of a folder of the user stay; all files in it are private
            private_folder(path)

    def alone(self) -> AbstractContextManager[None]:
        """Prevent other clients from using the directory inside the context.

        Raises:
            RunFolderError: another process uses it.
        """
        return alone(self.path)

    def private(self, device: str) -> OnDisk:
        """Return the store of the tensors that a method keeps on the client."""
        return OnDisk(self._private, device)

    def read(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file, {} if there is none.

        Raises:
            RunFolderError: it is damaged.
        """
        try:
            return read_json(self.path / name, dict)
        except FileNotFoundError:
            return {}
        except UnreadableError as error:
            raise self._damaged(name, error) from error

    def write(self, name: str, table: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        write_atomic(self.path / name, json.dumps(table).encode(), private=True)

    @property
    def terms(self) -> Hello:
        """The terms of the federation.

        Raises:
            RunFolderError: there are none, or they are damaged.
        """
        try:
            return Hello.model_validate_json(json.dumps(self.read(TERMS)))
        except ValidationError as error:
            raise self._damaged(TERMS, "it has no valid terms") from error

    def held(self, run: str) -> Held | None:
        """Return the base of the federation ``run``, None if there is none, or if it is damaged."""
        try:
            table = self.read(BASE)
            if table.get("run") != run:
                return None
            name = str(table["file"])
            data = read_bytes(self.path / Path(name).name) if name else b""
            if _hash(data) != table["content"]:
                raise UnreadableError(f"{name} does not have the hash it was written with")
            return Held(int(table["version"]), str(table["hash"]), parse_tensors(data)[0] if data else {})
        except (OSError, RunFolderError, UnreadableError, KeyError, TypeError, ValueError) as error:
            log.warning("the weights in %s are damaged (%s), so they are requested again", self.path, error)
            return None

    def hold(self, run: str, held: Held) -> None:
        """Write the base, and remove the one before it."""
        name = f"base-{held.version:06d}-{held.hash[:8]}.safetensors" if held.weights else ""
        data = b""
        if name:
            data = safetensors.torch.save(
                {key: t.detach().cpu().clone().contiguous() for key, t in held.weights.items()}
            )
            write_atomic(self.path / name, data, private=True)
        content = {"run": run, "version": held.version, "hash": held.hash, "file": name, "content": _hash(data)}
        self.write(BASE, content)
        for path in self.path.glob("base-*.safetensors"):
            if path.name != name:
                path.unlink()

    def answered(self, order: str) -> tuple[Report, bytes] | None:
        """Return the reply to the order with the hash ``order``, if it was the last one and is not damaged."""
        try:
            table = self.read(REPLY)
            content = table.pop("content", "")
            if table.get("answers") != order:
                return None
            report, tensors = Report.model_validate(table), read_bytes(self.path / TENSORS)
            return (report, tensors) if content == _hash(tensors) else None
        except (OSError, RunFolderError, ValueError):  # it can be computed again
            return None

    def answer(self, report: Report, tensors: bytes) -> None:
        """Keep the reply to an order."""
        self.write(REPLY, {})  # until the new reply is complete, there is none
        write_atomic(self.path / TENSORS, tensors, private=True)
        self.write(REPLY, report.model_dump() | {"content": _hash(tensors)})

    def usage(self, today: date | None = None) -> Usage:
        """Return what the client has done; bytes are those of today, in UTC.

        Raises:
            RunFolderError: the file is damaged, so that the limits of the client cannot be kept.
        """
        day = (today or datetime.now(UTC).date()).isoformat()
        try:
            used = _Usage.model_validate(self.read(USAGE))
        except ValidationError as error:
            raise self._damaged(USAGE, f"the entry {error.errors()[0]['loc'][0]} is not valid") from error
        return Usage(used.rounds, day, used.bytes if used.day == day else 0)

    @property
    def node(self) -> int:
        """The number of the client's last connection in Flower; 0 if it is not known, which only takes longer."""
        try:
            number = self.read(NODE).get("id", 0)
        except RunFolderError:
            return 0
        return number if isinstance(number, int) else 0

    def count(self, rounds: int, nbytes: int) -> None:
        """Add rounds and bytes to the usage."""
        usage = self.usage()
        self.write(USAGE, Usage(usage.rounds + rounds, usage.day, usage.bytes + nbytes)._asdict())

    def _damaged(self, name: str, problem: object) -> RunFolderError:
        return RunFolderError(f"{self.path / name} is damaged ({problem}): restore it, or remove it; {_LOST[name]}")


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
