"""What the shell offers after Tab: configurations, run folders, and settings with their values.

Nothing here imports torch. So the settings are read from ``settings.json``, which a test derives from the
declarations and keeps up to date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

from fedloru.presets import presets

FILE = "settings.json"
"""The keys of all settings, each with the values that it may have if these are known."""


def configurations(incomplete: str) -> list[str]:
    """Return the presets, TOML files and folders whose names begin with ``incomplete``."""
    return [*(name for name in presets() if name.startswith(incomplete)), *_paths(incomplete)]


def run_folders(incomplete: str) -> list[str]:
    """Return the runs in runs/, or the folders whose names begin with ``incomplete``."""
    runs = [str(path.parent) for path in sorted(Path("runs").glob("*/config.toml"))]
    return [run for run in runs if run.startswith(incomplete)] or list(_paths(incomplete))


def settings(incomplete: str) -> list[str]:
    """Return the settings, or after ``key=`` the values, that begin with ``incomplete``."""
    key, equals, _ = incomplete.partition("=")
    if equals:
        return [f"{key}={value}" for value in _values().get(key, []) if f"{key}={value}".startswith(incomplete)]
    return [f"{known}=" for known in _values() if known.startswith(incomplete)]


@cache
def _values() -> dict[str, list[str]]:
    known: dict[str, list[str]] = json.loads((files(__package__) / FILE).read_text("utf-8"))
    return known


def _paths(incomplete: str) -> Iterator[str]:
    folder, _, start = incomplete.rpartition("/")
    parent = Path(f"{folder}/" if folder or incomplete.startswith("/") else ".")
    if not parent.is_dir():
        return
    for path in sorted(parent.iterdir()):
        if path.name.startswith(start) and (path.is_dir() or path.suffix == ".toml") and path.name[:1] != ".":
            yield f"{path}/" if path.is_dir() else str(path)
