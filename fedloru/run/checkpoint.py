"""Checkpoints: everything a run needs to go on bit for bit, as safetensors and JSON.

A checkpoint of round t is ``round-t.safetensors`` and then ``round-t.json``, each written atomically; the second
names the hash of the first, so that one without the other, or damaged, is never taken for whole. The last two are
kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch

from fedloru import tree
from fedloru.data.partition import listed
from fedloru.errors import RunFolderError
from fedloru.files import write_atomic
from fedloru.lowrank import Site
from fedloru.method import State
from fedloru.tree import Params
from fedloru.wire import Ledger, Traffic

KEEP = 2
_TREES = ("base", "shared", "aux", "increment")


class Snapshot(NamedTuple):
    """A run between two rounds; never changed once made."""

    state: State
    traffic: Traffic
    ledger: tuple[Params, dict[str, Any]]

    def restore_ledger(self, sites: tuple[Site, ...]) -> Ledger:
        """Return a ledger of its own, as it was."""
        return Ledger.load(sites, self.state, *self.ledger)


def save(folder: Path, snapshot: Snapshot) -> None:
    """Write a checkpoint, then forget those before the last two."""
    folder.mkdir(exist_ok=True)
    tensors, rest = _flatten(snapshot)
    data = safetensors.torch.save(tensors)
    path = folder / f"round-{snapshot.state.round:06d}.safetensors"
    write_atomic(path, data)
    write_atomic(path.with_suffix(".json"), json.dumps(rest | {"hash": _hash(data, rest)}).encode())
    for old in rounds(folder)[:-KEEP]:
        _remove(folder, old)


def _remove(folder: Path, round: int) -> None:
    stem = folder / f"round-{round:06d}"
    stem.with_suffix(".json").unlink()
    stem.with_suffix(".safetensors").unlink(missing_ok=True)


def rounds(folder: Path) -> list[int]:
    """Return the rounds that have a checkpoint, in order."""
    named = (re.fullmatch(r"round-(\d{6,})\.json", path.name) for path in folder.glob("round-*.json"))
    return sorted(int(match[1]) for match in named if match)


def forget_after(folder: Path, round: int) -> None:
    """Remove the checkpoints of later rounds, of which a run that went back knows nothing."""
    for later in rounds(folder):
        if later > round:
            _remove(folder, later)


def load(folder: Path, round: int, device: str) -> Snapshot:
    """Return the checkpoint of ``round``.

    Raises:
        RunFolderError: the checkpoint is missing or damaged; the message offers the one before it.
    """
    if round not in rounds(folder):
        raise RunFolderError(_kept(folder, round))
    path = folder / f"round-{round:06d}.json"
    try:
        about = json.loads(path.read_bytes())
        data = path.with_suffix(".safetensors").read_bytes()
        if about.pop("hash") != _hash(data, about):
            raise ValueError("it does not have the hash it was written with")
        tensors = safetensors.torch.load(data)
        return _unflatten(tree.to(tensors, device), about)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise RunFolderError(_offer(folder, round, error)) from error


def wanted(folder: Path, round: int | None) -> int:
    """Return ``round`` if it can be looked at, 0 being the start; None is the last that is kept.

    Raises:
        RunFolderError: it is not kept; the message names those that are.
    """
    kept = [0, *rounds(folder)]
    if round is None and kept == [0]:
        raise RunFolderError(f"{folder.parent} has no checkpoint yet: train it further, or take round 0, its start")
    if (chosen := kept[-1] if round is None else round) not in kept:
        raise RunFolderError(f"{folder.parent} keeps no checkpoint of round {chosen}: take one of {listed(kept)}")
    return chosen


def load_state(folder: Path, round: int, device: str) -> State:
    """Return the state after ``round``, to look at and not to go on from.

    Raises:
        RunFolderError: the checkpoint is damaged; the message names the others.
    """
    try:
        return load(folder, round, device).state
    except RunFolderError as error:
        others = listed([0, *(other for other in rounds(folder) if other != round)])
        raise RunFolderError(
            f"the checkpoint of round {round} in {folder.parent} is damaged: {error.__cause__}. Take one of {others}"
        ) from error


def _kept(folder: Path, round: int) -> str:
    kept = " and ".join(map(str, rounds(folder))) or "none"
    return f"{folder} has no checkpoint of round {round}; kept: {kept}. Name one with --from-round, or 0 to begin again"


def _offer(folder: Path, round: int, error: Exception) -> str:
    others = [other for other in rounds(folder) if other < round]
    way_out = (
        f"add --from-round {others[-1]} to go on from the one before" if others else "add --from-round 0 to begin again"
    )
    return f"the checkpoint of round {round} in {folder} cannot be used: {error}. Nothing was changed; {way_out}"


def _flatten(snapshot: Snapshot) -> tuple[Params, dict[str, Any]]:
    state = snapshot.state
    tensors = {f"{name}/{key}": value for name in _TREES for key, value in getattr(state, name).items()}
    tensors |= {f"ledger/{key}": value for key, value in snapshot.ledger[0].items()}
    whole = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    return whole, {
        "seed": state.seed,
        "round": state.round,
        "version": state.version,
        "notes": state.notes,
        "traffic": snapshot.traffic.table(),
        "ledger": snapshot.ledger[1],
    }


def _unflatten(tensors: Params, about: dict[str, Any]) -> Snapshot:
    trees: dict[str, Params] = {name: {} for name in (*_TREES, "ledger")}
    for key, value in sorted(tensors.items()):
        name, _, rest = key.partition("/")
        trees[name][rest] = value
    state = State(
        about["seed"],
        about["round"],
        about["version"],
        trees["base"],
        trees["shared"],
        trees["aux"],
        trees["increment"],
        about["notes"],
    )
    return Snapshot(state, Traffic(**about["traffic"]), (trees["ledger"], about["ledger"]))


def _hash(data: bytes, rest: dict[str, Any]) -> str:
    return hashlib.blake2b(data + json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()
