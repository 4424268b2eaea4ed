"""The enrolled clients of a federation: their names, keys and limits, in ``clients.json`` of its directory.

A client's index is its position, which never changes: cohorts, seeds and records use it. ``status.json`` holds what
the server last saw of each client.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedloru.errors import ConfigError, quoted
from fedloru.files import write_atomic
from fedloru.flower.protocol import Count
from fedloru.reading import UnreadableError, read_json
from fedloru.run.lock import alone

CLIENTS, STATUS = "clients.json", "status.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Client(BaseModel):
    """An enrolled client: ``key`` is its public key in OpenSSH format, ``max_examples`` its limit, None: the default.

    A removed client keeps its index, and is refused.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    name: str
    key: str
    enrolled: str
    max_examples: Annotated[int, Field(ge=1)] | None = None
    removed: bool = False


class Seen(BaseModel):
    """What the server last saw of a client; ``accuracy`` is its last score on its own test examples."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    online: bool = False
    last_seen: str = ""
    fedloru: str = ""
    version: Count | None = None
    round: Count = 0
    examples: Count = 0
    up_bytes: Count = 0
    down_bytes: Count = 0
    loss: float | None = None
    accuracy: float | None = None
    problem: str = ""


class Roster:
    """The clients enrolled in the federation directory ``folder``.

    Raises:
        ConfigError: the file of clients is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: tuple[tuple[int, int], list[Client]] = (0, 0), []

    @property
    def clients(self) -> list[Client]:
        """The enrolled clients by index; the file is read when it has changed."""
        path = self.folder / CLIENTS
        try:
            found = path.stat()
        except FileNotFoundError:
            return []
        if self._read[0] != (stamp := (found.st_mtime_ns, found.st_ino)):
            self._read = stamp, [_valid(path, Client, entry) for entry in _read(path, list)]
        return self._read[1]

    def enroll(self, name: str, key: str, max_examples: int | None = None) -> int:
        """Enroll a client, and return its index; an enrolled or removed client of the same key is changed.

        Raises:
            ConfigError: the name is not valid, or belongs to another key, or the key to another name.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(
                [f"the name {quoted(name)} is not valid: use letters, digits, '.', '_' and '-'"], "--name"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with alone(self.folder):
            clients = self.clients
            for client in clients:
                if (client.name == name) != (client.key == key):
                    taken = f"the name {quoted(name)}" if client.name == name else "this key"
                    other = "another key" if client.name == name else f"the name {quoted(client.name)}"
                    raise ConfigError([f"{taken} is enrolled already, with {other}: choose another one"], "enroll")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            entry = Client(name=name, key=key, enrolled=now, max_examples=max_examples)
            index = next((i for i, client in enumerate(clients) if client.key == key), len(clients))
            self._write([*clients[:index], entry, *clients[index + 1 :]])
        return index

    def remove(self, name: str, key: str) -> None:
        """Remove a client: it is refused from now on.

        Raises:
            ConfigError: there is no such client, or it has another key.
        """
        with alone(self.folder):
            clients = self.clients
            found = next((client for client in clients if client.name == name), None)
            if found is None or found.key != key:
                problem = "is not enrolled" if found is None else "has another key"
                raise ConfigError([f"{quoted(name)} {problem} in {self.folder}: see `fedloru clients`"], "enroll")
            self._write([each.model_copy(update={"removed": each.removed or each is found}) for each in clients])

    def seen(self) -> dict[str, Seen]:
        """Return what the server last saw of each client, by name."""
        path = self.folder / STATUS
        return {name: _valid(path, Seen, entry) for name, entry in _read(path, dict).items()}

    def see(self, seen: dict[str, Seen]) -> None:
        """Write what the server sees of each client."""
        self._dump(STATUS, {name: each.model_dump() for name, each in seen.items()})

    def _write(self, clients: list[Client]) -> None:
        self._dump(CLIENTS, [client.model_dump() for client in clients])

    def _dump(self, name: str, value: Any) -> None:
        write_atomic(self.folder / name, json.dumps(value, indent=1).encode())


def _read(path: Path, kind: type) -> Any:
    try:
        return read_json(path, kind)
    except FileNotFoundError:
        return kind()
    except UnreadableError as error:
        raise ConfigError([f"it is damaged ({error}): restore it from a backup"], str(path)) from error


def _valid(path: Path, form: type[Any], entry: Any) -> Any:
    try:
        return form.model_validate(entry)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError([f"it is damaged ({where}): restore it from a backup"], str(path)) from error
