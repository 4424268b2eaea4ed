"""What a run started from: its configuration, and hashes of the data and the model that the configuration refers to.

A resumed run must equal an uninterrupted one, so it resumes only if none of these have changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedloru import tree
from fedloru.errors import RunFolderError, quoted
from fedloru.files import write_atomic
from fedloru.reading import UnreadableError, read_json
from fedloru.run.plan import Plan, defaults

SETTINGS = Path("checkpoint", "config.json")
"""A second copy of the configuration, to detect changes to config.toml."""
HASHES = Path("checkpoint", "origin.json")

log = logging.getLogger(__name__)


def origin(plan: Plan) -> dict[str, str]:
    """Return hashes of the training examples, the test examples, and the model before training."""
    return {
        "training examples": tree.digest(plan.dataset.train),
        "test examples": tree.digest(plan.dataset.test),
        "starting model": tree.digest(plan.net.params | plan.net.buffers),
    }


def save(folder: Path, config: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Write the configuration and the hashes of a new run to its folder."""
    write_atomic(folder / SETTINGS, json.dumps(config).encode())
    write_atomic(folder / HASHES, json.dumps(hashes).encode())


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that the configuration is the one that the run started with.

    Raises:
        RunFolderError: values have changed, or the copy is missing or damaged.
    """
    try:
        started = read_json(folder / SETTINGS, dict)
    except (OSError, UnreadableError) as error:
        raise RunFolderError(
            f"{folder / SETTINGS} is missing or damaged ({error}), so the configuration cannot be compared with the "
            "one that the run started with: restore the file, or start a new run"
        ) from error
    if changed := _changes(started, json.loads(json.dumps(config))):
        raise RunFolderError(
            f"the configuration in {folder} has changed since the run started: {'; '.join(changed)}. "
            "A resumed run must equal an uninterrupted one: restore the values, or start a new run"
        )


def check_origin(folder: Path, now: Mapping[str, str]) -> None:
    """Check that the hashes ``now`` are those that the run started from; log a warning if it has none.

    Raises:
        RunFolderError: a hash has changed, or the file of hashes is damaged.
    """
    path = folder / HASHES
    try:
        before = read_json(path, dict) if path.exists() else {}
    except (OSError, UnreadableError) as error:
        raise RunFolderError(f"{path} is damaged ({error}): restore the file, or start a new run") from error
    if not before:
        log.warning("%s has no hashes of its data and model, so they are not checked for changes", folder)
    if changed := [name for name, value in before.items() if now.get(name, value) != value]:
        raise RunFolderError(
            f"what the run in {folder} started from has changed: the {' and the '.join(changed)}. A resumed run must "
            "equal an uninterrupted one: restore them, or start a new run"
        )


def _changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return what has changed; a setting that an earlier version did not have counts as its default."""
    changed, known = [], defaults()
    for key in sorted(old.keys() | new.keys()):
        now = new.get(key)
        before = old.get(key, {} if isinstance(now, dict) else known.get(f"{prefix}{key}"))
        if isinstance(before, dict) and isinstance(now, dict):
            changed += _changes(before, now, f"{prefix}{key}.")
        elif before != now:
            changed.append(f"{prefix}{key} was {quoted(before)}, is {quoted(now)}")
    return changed
