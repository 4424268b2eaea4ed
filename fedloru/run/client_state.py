"""Client states in simulation: in memory, or in the run folder, from which only those of the cohort are loaded.

Client states are stored with the round after which they were saved, so a run that is reset to an earlier round finds
the states of that round. On disk, each client has a folder with one file per round, which only the owner can read.
Files that no checkpoint needs any more are removed when the client saves again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import safetensors.torch

from fedloru import tree
from fedloru.errors import RunFolderError
from fedloru.files import private_folder, write_atomic
from fedloru.reading import UnreadableError, read_tensors
from fedloru.tree import Params


class ClientStore(Protocol):
    """Storage for client states."""

    def load(self, client: int, round: int) -> Params:
        """Return the last state of ``client`` saved up to and including ``round``; {} if there is none."""

    def save(self, round: int, client_state: dict[int, Params], oldest: int) -> None:
        """Store the client states after ``round``; states needed only before the round ``oldest`` may be removed."""


class InMemory:
    """Client states in memory, for runs without a folder."""

    def __init__(self) -> None:
        self._states: dict[int, dict[int, Params]] = {}

    def load(self, client: int, round: int) -> Params:
        """Return the last state of ``client`` saved up to and including ``round``; {} if there is none."""
        states = self._states.get(client, {})
        return states[max(past)] if (past := [saved for saved in states if saved <= round]) else {}

    def save(self, round: int, client_state: dict[int, Params], oldest: int) -> None:
        """Store the client states after ``round``, and keep each client's last state before it."""
        for client, tensors in client_state.items():
            before = {saved: state for saved, state in self._states.get(client, {}).items() if saved < round}
            last = {max(before): before[max(before)]} if before else {}
            self._states[client] = {**last, round: tensors}


class OnDisk:
    """Client states in ``folder``, loaded to ``device``."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device

    def load(self, client: int, round: int) -> Params:
        """Return the last state of ``client`` saved up to and including ``round``; {} if there is none.

        Raises:
            RunFolderError: the client's file is damaged.
        """
        paths = self._paths_up_to(client, round)
        if not paths:
            return {}
        try:
            tensors, _ = read_tensors(paths[-1])
        except (OSError, UnreadableError) as error:
            raise RunFolderError(
                f"the state of client {client} cannot be read from {paths[-1]}: {error}. Restore the file, or resume "
                f"from an earlier checkpoint with --from-round"
            ) from error
        return tree.to(tensors, self.device)

    def save(self, round: int, client_state: dict[int, Params], oldest: int) -> None:
        """Store the client states after ``round``; states needed only before the round ``oldest`` may be removed."""
        for client, tensors in client_state.items():
            folder = self.folder / f"{client:06d}"
            private_folder(self.folder)
            private_folder(folder)
            data = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
            write_atomic(folder / f"round-{round:06d}.safetensors", safetensors.torch.save(data), private=True)
            for path in self._paths_up_to(client, oldest)[:-1]:
                path.unlink()

    def _paths_up_to(self, client: int, round: int) -> list[Path]:
        paths = sorted((self.folder / f"{client:06d}").glob("round-*.safetensors"), key=_round)
        return [path for path in paths if _round(path) <= round]


def _round(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
