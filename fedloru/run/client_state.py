"""What clients keep between rounds, in simulation: in memory, or in the run folder, loaded for the cohort alone.

What a client kept is found by the round after which it kept it, so that a run which goes back to an earlier round
finds what was kept then. On disk, a client has a folder, and in it a file a round; those that no checkpoint needs any
more go when the client writes again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import safetensors
import safetensors.torch

from fedloru import tree
from fedloru.errors import RunFolderError
from fedloru.files import write_atomic
from fedloru.tree import Params


class ClientStore(Protocol):
    """Where what clients keep is kept."""

    def load(self, client: int, round: int) -> Params:
        """Return what ``client`` kept last, up to and including ``round``; {} where it had kept nothing yet."""

    def save(self, round: int, client_state: dict[int, Params], oldest: int) -> None:
        """Keep what clients kept after ``round``; no run goes back before the round ``oldest``."""


class InMemory:
    """What clients keep, for runs without a folder."""

    def __init__(self) -> None:
        self._own: dict[int, dict[int, Params]] = {}

    def load(self, client: int, round: int) -> Params:
        """Return what ``client`` kept last, up to and including ``round``; {} where it had kept nothing yet."""
        kept = self._own.get(client, {})
        return kept[max(past)] if (past := [when for when in kept if when <= round]) else {}

    def save(self, round: int, client_state: dict[int, Params], oldest: int) -> None:
        """Keep what clients kept after ``round``, and what they had before it."""
        for client, kept in client_state.items():
            before = {when: tensors for when, tensors in self._own.get(client, {}).items() if when < round}
            last = {max(before): before[max(before)]} if before else {}
            self._own[client] = {**last, round: kept}


class OnDisk:
    """What clients keep, under ``folder``; on ``device`` when loaded."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device

    def load(self, client: int, round: int) -> Params:
        """Return what ``client`` kept last, up to and including ``round``; {} where it had kept nothing yet.

        Raises:
            RunFolderError: the client's file is damaged.
        """
        paths = self._until(client, round)
        if not paths:
            return {}
        try:
            kept = safetensors.torch.load(paths[-1].read_bytes())
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise RunFolderError(
                f"what client {client} keeps cannot be read from {paths[-1]}: {error}. Restore the file, or go back "
                f"to an earlier checkpoint with --from-round"
            ) from error
        return tree.to(dict(sorted(kept.items())), self.device)

    def save(self, round: int, client_state: dict[int, Params], oldest: int) -> None:
        """Keep what clients kept after ``round``; no run goes back before the round ``oldest``."""
        for client, kept in client_state.items():
            place = self.folder / f"{client:06d}"
            place.mkdir(parents=True, exist_ok=True)
            data = {key: value.detach().cpu().clone().contiguous() for key, value in kept.items()}
            write_atomic(place / f"round-{round:06d}.safetensors", safetensors.torch.save(data))
            for path in self._until(client, oldest)[:-1]:
                path.unlink()

    def _until(self, client: int, round: int) -> list[Path]:
        paths = sorted((self.folder / f"{client:06d}").glob("round-*.safetensors"), key=_round)
        return [path for path in paths if _round(path) <= round]


def _round(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
