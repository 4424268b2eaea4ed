"""What a run started with: its configuration, and hashes of what a configuration only names, the data and the model.

A resumed run must equal an uninterrupted one, so it goes on only where all of these are what they were.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedloru import tree
from fedloru.errors import RunFolderError
from fedloru.files import write_atomic
from fedloru.run.plan import Plan

SETTINGS = Path("checkpoint", "config.json")
"""A second copy of the configuration, which tells an edited config.toml from the run's own."""
HASHES = Path("checkpoint", "origin.json")

log = logging.getLogger(__name__)


def origin(plan: Plan) -> dict[str, str]:
    """Return hashes of the bits of the training examples, of the test examples, and of the model before training."""
    return {
        "training examples": tree.digest(plan.data.train),
        "test examples": tree.digest(plan.data.test),
        "starting model": tree.digest(plan.net.params | plan.net.buffers),
    }


def save(folder: Path, config: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Write what a run starts with into its folder."""
    write_atomic(folder / SETTINGS, json.dumps(config).encode())
    write_atomic(folder / HASHES, json.dumps(hashes).encode())


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration that is not the one the run started with.

    Raises:
        RunFolderError: values have changed, or the copy is missing or damaged.
    """
    try:
        started = json.loads((folder / SETTINGS).read_bytes())
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{folder / SETTINGS} is missing or damaged ({error}), so it cannot be told whether the "
            "configuration is still the one that the run started with: restore the file, or start a new run"
        ) from error
    if changed := _changes(started, json.loads(json.dumps(config))):
        raise RunFolderError(
            f"the configuration in {folder} has changed since the run started: {'; '.join(changed)}. "
            "A resumed run must equal an uninterrupted one: put the values back, or start a new run"
        )


def check_origin(folder: Path, now: Mapping[str, str]) -> None:
    """Refuse what is ``now`` there of data and model, where the run started from another; no hashes give a warning.

    Raises:
        RunFolderError: a hash has changed, or the file of hashes is damaged.
    """
    path = folder / HASHES
    try:
        before = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged ({error}): restore the file, or start a new run") from error
    if not before:
        log.warning("%s holds no hashes of its data and model, so they are not checked for changes", folder)
    if changed := [name for name, value in before.items() if now.get(name, value) != value]:
        raise RunFolderError(
            f"what the run in {folder} started from has changed: the {' and the '.join(changed)}. A resumed run must "
            "equal an uninterrupted one: put back what was there, or start a new run"
        )


def _changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            changed += _changes(was, now, f"{prefix}{key}.")
        elif was != now:
            changed.append(f"{prefix}{key} was {was!r}, is {now!r}")
    return changed
