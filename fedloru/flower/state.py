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

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch

from fedloru.errors import RunFolderError
from fedloru.files import private_folder, write_atomic
from fedloru.flower.protocol import Report
from fedloru.reading import UnreadableError, read_bytes, read_json, read_tensors
from fedloru.run.client_state import OnDisk
from fedloru.run.lock import alone
from fedloru.tree import Params

TERMS, BASE, USAGE, NODE = "terms.json", "base.json", "usage.json", "node.json"
REPLY, TENSORS = "reply.json", "reply.bin"


class Held(NamedTuple):
    """The base that a client holds: its version, the hash of the weights that merges change, and those weights.

    ``weights`` are all frozen weights if the client cannot build W₀ itself.
    """

    version: int
    hash: str
    weights: Params


class Usage(NamedTuple):
    """What a client has done: all rounds, and the bytes of a day."""

    rounds: int = 0
    day: str = ""
    bytes: int = 0


class StateFolder:
    """The state directory at ``path``, which is created if it does not exist.

    ``private`` is where the tensors are that a method keeps on the client; by default in ``path``.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self, path: Path, private: Path | None = None) -> None:
        self.path, self._private = path, private or path / "private"
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

    def held(self, run: str) -> Held | None:
        """Return the base of the federation ``run``, None if there is none.

        Raises:
            RunFolderError: it is damaged.
        """
        table = self.read(BASE)
        if table.get("run") != run:
            return None
        try:
            name = str(table["file"])
            weights = read_tensors(self.path / Path(name).name)[0] if name else {}
            return Held(int(table["version"]), str(table["hash"]), weights)
        except (OSError, UnreadableError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(BASE, error) from error

    def hold(self, run: str, held: Held) -> None:
        """Write the base, and remove the one before it."""
        name = f"base-{held.version:06d}-{held.hash[:8]}.safetensors" if held.weights else ""
        if name:
            tensors = {key: t.detach().cpu().clone().contiguous() for key, t in held.weights.items()}
            write_atomic(self.path / name, safetensors.torch.save(tensors), private=True)
        self.write(BASE, {"run": run, "version": held.version, "hash": held.hash, "file": name})
        for path in self.path.glob("base-*.safetensors"):
            if path.name != name:
                path.unlink()

    def answered(self, order: str) -> tuple[Report, bytes] | None:
        """Return the reply to the order with the hash ``order``, if it was the last one."""
        table = self.read(REPLY)
        if not order or table.get("answers") != order:
            return None
        try:
            return Report.model_validate(table), read_bytes(self.path / TENSORS)
        except (OSError, ValueError):  # it can be computed again
            return None

    def answer(self, report: Report, tensors: bytes) -> None:
        """Keep the reply to an order."""
        self.write(REPLY, {})  # until the new reply is complete, there is none
        write_atomic(self.path / TENSORS, tensors, private=True)
        self.write(REPLY, report.model_dump())

    def usage(self, today: date | None = None) -> Usage:
        """Return what the client has done; bytes are those of today, in UTC."""
        table = self.read(USAGE)
        day = (today or datetime.now(UTC).date()).isoformat()
        used = int(table.get("bytes", 0)) if table.get("day") == day else 0
        return Usage(int(table.get("rounds", 0)), day, used)

    def count(self, rounds: int, nbytes: int) -> None:
        """Add rounds and bytes to the usage."""
        usage = self.usage()
        self.write(USAGE, Usage(usage.rounds + rounds, usage.day, usage.bytes + nbytes)._asdict())

    def _damaged(self, name: str, error: Exception) -> RunFolderError:
        return RunFolderError(
            f"{self.path / name} is damaged ({error}): restore it, or remove it; the client then receives what it lacks"
        )
