"""The names of the clients in a run folder, by index, as records and pages use them."""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path

from fedloru.errors import RunFolderError, quoted
from fedloru.files import write_atomic
from fedloru.flower.roster import Roster
from fedloru.reading import UnreadableError, read_json

NAMES = "clients.json"


def check_names(folder: Path, roster: Roster) -> None:
    """Check that the clients of the run in ``folder`` have the same index in ``roster``; others may have followed.

    Raises:
        RunFolderError: a client differs, or the file is damaged.
    """
    path = folder / NAMES
    try:
        before = read_json(path, list)
    except FileNotFoundError:
        return
    except UnreadableError as error:
        raise RunFolderError(f"{path} is damaged ({error}): remove it; it is written again") from error
    names = [client.name for client in roster.clients]
    for client, (name, here) in enumerate(zip_longest(before, names[: len(before)])):
        if name != here:
            raise RunFolderError(
                f"the run in {folder} is that of another federation: its client {client} is {quoted(name)}, but here "
                f"{quoted(here) if here else 'not enrolled'}; name the directory of its federation (--dir)"
            )


def write_names(folder: Path, roster: Roster) -> None:
    """Write the names of the clients to a run folder."""
    write_atomic(folder / NAMES, json.dumps([client.name for client in roster.clients]).encode())
