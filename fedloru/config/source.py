"""Where a configuration comes from, a file or a preset and what overrides it, and how it is written back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w

from fedloru.config.parse import parse
from fedloru.config.schema import SECTIONS, Config
from fedloru.errors import ConfigError, choices

DEMO = "demo"

Table = dict[str, Any]


def load(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a TOML file or of a preset (None: the demo), changed by ``key=value`` overrides.

    A value is read as TOML, or as a plain string where it is none. An override that chooses another method, model,
    scheme, source or rule leaves out what the file sets for the old one alone.

    Raises:
        ConfigError: there is no such file or preset, it is not TOML, or it has problems, all of which are listed.
    """
    name = str(source or DEMO)
    table = _read(name)
    changes = _overrides(overrides)
    default = {"output": {"dir": f"runs/{Path(name).stem}"}}
    return parse(_merge(default, _merge(_kept(table, changes), changes)), name)


def dump(config: Config) -> Table:
    """Return ``config`` as a table with every default; what has no value is left out. ``parse`` reads it back."""
    sections: Table = {}
    for name, forms in SECTIONS.items():
        section = getattr(config, name).model_dump(exclude_none=True)
        sections[name] = {forms.key: section[forms.key], **section} if forms.key else section
    return {"seed": config.seed, "rounds": config.rounds, **sections}


def text(config: Config) -> str:
    """Return ``config`` as complete TOML."""
    return tomli_w.dumps(dump(config))


def presets() -> dict[str, str]:
    """Return the presets that come with fedloru: name and TOML text."""
    found = (files("fedloru") / "presets").iterdir()
    toml = sorted((Path(file.name).stem, file.read_text("utf-8")) for file in found if file.name.endswith(".toml"))
    return dict(toml)


def _read(name: str) -> Table:
    known = presets()
    try:
        return tomllib.loads(known[name] if name in known else Path(name).read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError([f"there is no such file and no such preset{choices(name, known)}"], name) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"it is not valid TOML: {error}"], name) from error
    except OSError as error:
        raise ConfigError([f"it cannot be read: {error.strerror}"], name) from error


def _overrides(overrides: Sequence[str]) -> Table:
    changes: Table = {}
    problems = []
    for override in overrides:
        try:
            changes = _merge(changes, _override(override))
        except tomllib.TOMLDecodeError:
            problems.append(f"{override!r} is not of the form key=value, such as method.tau=5")
    if problems:
        raise ConfigError(problems, "the command line")
    return changes


def _override(override: str) -> Table:
    key, equals, value = override.partition("=")
    try:
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        # JSON's strings are TOML's basic strings.
        return tomllib.loads(f"{key} = {json.dumps(value.strip()) if equals else ''}")


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> Table:
    """Return ``old`` with ``new`` over it, table by table."""
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _kept(table: Table, changes: Table) -> Table:
    """Leave out the settings of a form, such as a method, in whose place ``changes`` puts another."""
    kept = dict(table)
    for name, forms in SECTIONS.items():
        old, new = table.get(name), changes.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and (form := forms.find(new.get(forms.key))):
            others = {key for other in forms.by_name.values() for key in other.model_fields}
            kept[name] = {key: value for key, value in old.items() if key in form.model_fields or key not in others}
    return kept
