"""The presets: the configurations that come with fedloru, as TOML files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def presets() -> dict[str, str]:
    """Return the presets that come with fedloru: name and TOML text."""
    toml = [file for file in files(__name__).iterdir() if file.name.endswith(".toml")]
    return dict(sorted((Path(file.name).stem, file.read_text("utf-8")) for file in toml))
