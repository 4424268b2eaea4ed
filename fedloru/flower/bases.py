"""The hashes of the server's base at every version, by which it recognizes what a client says that it holds.

A client may hold a version of rounds that no longer exist, because the server was restored from a checkpoint. Its hash
then differs, and it receives the dense weights of the sites.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fedloru import wire
from fedloru.errors import RunFolderError
from fedloru.files import write_atomic
from fedloru.lowrank import Site
from fedloru.method import State
from fedloru.reading import UnreadableError, read_json

FILE = "bases.json"
UNKNOWN = 2**62
"""The version of a base that the server does not know: one that it never reaches."""


class Bases:
    """The hashes of a run at ``first`` and after; with a folder, they are kept in it.

    Raises:
        RunFolderError: the file of hashes is damaged.
    """

    def __init__(self, sites: Sequence[Site], first: State) -> None:
        self.sites = sites
        self._hashes = {first.version: wire.base_hash(sites, first.base)}
        self._path: Path | None = None

    def open(self, folder: Path, version: int) -> None:
        """Continue with the hashes in ``folder`` up to ``version``, at which the run is."""
        self._path = folder / FILE
        try:
            stored = {int(key): str(value) for key, value in read_json(self._path, dict).items()}
            self._hashes = {key: value for key, value in (stored | self._hashes).items() if key <= version}
        except FileNotFoundError:
            pass
        except (UnreadableError, ValueError) as error:
            raise RunFolderError(
                f"{self._path} is damaged ({error}): remove it; clients then receive what they lack"
            ) from error

    def hash(self, state: State) -> str:
        """Return the hash of the base of ``state``."""
        if state.version not in self._hashes:
            self._hashes[state.version] = wire.base_hash(self.sites, state.base)
            if self._path is not None:
                write_atomic(self._path, json.dumps(self._hashes).encode())
        return self._hashes[state.version]

    def recognized(self, held: int | None, hash: str) -> int | None:
        """Return the version that the ledger records for a client that says it holds ``held`` with ``hash``.

        If the server does not know that base, this is ``UNKNOWN``: the ledger then sends the dense weights.
        """
        if held is None or self._hashes.get(held) == hash:
            return held
        return UNKNOWN
