"""Checkpoints: everything that a run needs to resume bit for bit, as safetensors and JSON.

The checkpoint of round t consists of ``round-t.safetensors`` and then ``round-t.json``, each written atomically. The
second contains a hash of the first, so an incomplete or damaged checkpoint is detected. The last two are kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from pydantic import BaseModel, ValidationError

from fedloru import tree
from fedloru.errors import RunFolderError, WireError, listed, quoted
from fedloru.files import write_atomic
from fedloru.lowrank import Site
from fedloru.method import State
from fedloru.reading import UnreadableError, parse_tensors, read_bytes, read_json
from fedloru.tree import Params
from fedloru.wire import Ledger, Traffic

KEEP = 2
_TREES = ("base", "shared", "aux", "increment")


class _Counts(BaseModel):
    down: dict[str, int]
    up: dict[str, int]


class _Versions(BaseModel):
    version: int
    first_download: bool
    held: dict[int, int] = {}
    """In checkpoints of earlier versions, which had it here and not as a tensor."""


class _Metadata(BaseModel):
    """The types of the entries of ``round-t.json``."""

    seed: int
    round: int
    version: int
    notes: dict[str, float]
    traffic: _Counts
    ledger: _Versions


class Snapshot(NamedTuple):
    """A run between two rounds; never modified."""

    state: State
    traffic: Traffic
    ledger: tuple[Params, dict[str, Any]]

    def restore_ledger(self, sites: tuple[Site, ...], codec: str = "exact") -> Ledger:
        """Return a new ledger in the saved state."""
        return Ledger.load(sites, self.state, *self.ledger, codec)


def save(folder: Path, snapshot: Snapshot, kept: Collection[int] | None = None) -> None:
    """Write a checkpoint, then remove all others but those of the rounds in ``kept``, by default the one before it."""
    folder.mkdir(exist_ok=True)
    tensors, rest = _flatten(snapshot)
    data = safetensors.torch.save(tensors)
    path = folder / f"round-{snapshot.state.round:06d}.safetensors"
    write_atomic(path, data)
    write_atomic(path.with_suffix(".json"), json.dumps(rest | {"hash": _hash(data, rest)}).encode())
    old = rounds(folder)[:-KEEP] if kept is None else set(rounds(folder)) - {snapshot.state.round, *kept}
    for round in old:
        _remove(folder, round)


def _remove(folder: Path, round: int) -> None:
    stem = folder / f"round-{round:06d}"
    stem.with_suffix(".json").unlink()
    stem.with_suffix(".safetensors").unlink(missing_ok=True)


def rounds(folder: Path) -> list[int]:
    """Return the rounds that have a checkpoint, in ascending order."""
    named = (re.fullmatch(r"round-(\d{6,})\.json", path.name) for path in folder.glob("round-*.json"))
    return sorted(int(match[1]) for match in named if match)


def forget_after(folder: Path, round: int) -> None:
    """Remove the checkpoints of rounds after ``round``, to which a run has been reset."""
    for later in rounds(folder):
        if later > round:
            _remove(folder, later)


def load(folder: Path, round: int, device: str) -> Snapshot:
    """Return the checkpoint of ``round``.

    Raises:
        RunFolderError: the checkpoint is missing or damaged; the message suggests the previous one.
    """
    if round not in rounds(folder):
        raise RunFolderError(_missing_message(folder, round))
    path = folder / f"round-{round:06d}.json"
    try:
        metadata = read_json(path, dict)
        data = read_bytes(path.with_suffix(".safetensors"))
        if metadata.pop("hash", None) != _hash(data, metadata):
            raise UnreadableError("it does not have the hash it was written with")
        tensors, _ = parse_tensors(data)
        return _unflatten(tree.to(tensors, device), _checked(metadata, round))
    except (OSError, UnreadableError) as error:
        raise RunFolderError(_damaged_message(folder, round, error)) from error


def wanted(folder: Path, round: int | None) -> int:
    """Return ``round`` if its state can be read; 0 is the initial state, and None means the last checkpoint.

    Raises:
        RunFolderError: the round has no checkpoint; the message lists the rounds that have one.
    """
    kept = [0, *rounds(folder)]
    if round is None and kept == [0]:
        raise RunFolderError(
            f"{folder.parent} has no checkpoint yet: train it further, or choose round 0, the initial state"
        )
    if (chosen := kept[-1] if round is None else round) not in kept:
        raise RunFolderError(f"{folder.parent} has no checkpoint of round {chosen}: choose one of {listed(kept)}")
    return chosen


def load_state(folder: Path, round: int, device: str) -> State:
    """Return the state after ``round``, for reading and not for resuming.

    Raises:
        RunFolderError: the checkpoint is damaged; the message lists the others.
    """
    try:
        return load(folder, round, device).state
    except RunFolderError as error:
        others = listed([0, *(other for other in rounds(folder) if other != round)])
        raise RunFolderError(
            f"the checkpoint of round {round} in {folder.parent} is damaged: {error.__cause__}. Choose one of {others}"
        ) from error


def _missing_message(folder: Path, round: int) -> str:
    kept = " and ".join(map(str, rounds(folder))) or "none"
    return (
        f"{folder} has no checkpoint of round {round}; kept: {kept}. Choose one with --from-round, or 0 to start over"
    )


def _damaged_message(folder: Path, round: int, error: Exception) -> str:
    earlier = [other for other in rounds(folder) if other < round]
    hint = (
        f"add --from-round {earlier[-1]} to resume from the previous checkpoint"
        if earlier
        else "add --from-round 0 to start over"
    )
    return f"the checkpoint of round {round} in {folder} cannot be used: {error}. Nothing was changed; {hint}"


def _flatten(snapshot: Snapshot) -> tuple[Params, dict[str, Any]]:
    state = snapshot.state
    tensors = {f"{name}/{key}": value for name in _TREES for key, value in getattr(state, name).items()}
    tensors |= {f"ledger/{key}": value for key, value in snapshot.ledger[0].items()}
    copies = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    return copies, {
        "seed": state.seed,
        "round": state.round,
        "version": state.version,
        "notes": state.notes,
        "traffic": snapshot.traffic.table(),
        "ledger": snapshot.ledger[1],
    }


def _checked(metadata: dict[str, Any], round: int) -> dict[str, Any]:
    """Return the entries of the checkpoint of ``round`` if all have the right types."""
    try:
        checked = _Metadata.model_validate(metadata)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UnreadableError(f"its entry {quoted(where)} is not valid") from error
    if checked.round != round:
        raise UnreadableError(f"it is the checkpoint of round {checked.round}")
    return metadata


def _unflatten(tensors: Params, metadata: dict[str, Any]) -> Snapshot:
    trees: dict[str, Params] = {name: {} for name in (*_TREES, "ledger")}
    for key, value in tensors.items():
        name, _, rest = key.partition("/")
        if name not in trees:
            raise UnreadableError(f"it has the unknown tensor {quoted(key)}")
        trees[name][rest] = value
    state = State(
        metadata["seed"],
        metadata["round"],
        metadata["version"],
        trees["base"],
        trees["shared"],
        trees["aux"],
        trees["increment"],
        metadata["notes"],
    )
    snapshot = Snapshot(state, Traffic(**metadata["traffic"]), (trees["ledger"], metadata["ledger"]))
    try:
        snapshot.restore_ledger(())
    except (ValueError, WireError) as error:
        raise UnreadableError(str(error)) from error
    return snapshot


def _hash(data: bytes, rest: dict[str, Any]) -> str:
    return hashlib.blake2b(data + json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()
