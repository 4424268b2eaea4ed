"""Load a configuration from a file or a preset with overrides, and write it as TOML."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from fedloru.config.derive import Forms
from fedloru.config.fields import Section
from fedloru.config.parse import parse
from fedloru.config.schema import SECTIONS, Config
from fedloru.errors import ConfigError, choices, quoted
from fedloru.lowrank.choice import alphas_of
from fedloru.presets import presets
from fedloru.reading import UnreadableError, parse_toml, read_toml
from fedloru.settings import PREFIX, When
from fedloru.settings.types import Per

DEMO = "demo"

log = logging.getLogger(__name__)

Table = dict[str, Any]


def load(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a TOML file or of a preset (None: the demo), changed by ``key=value`` overrides.

    A value is read as TOML, or as a plain string if it is not valid TOML. If an override selects another method, model,
    scheme, source, rule or optimizer, settings in the file that only the old one has are dropped.

    Raises:
        ConfigError: the file or preset does not exist, is not valid TOML, or has problems; the message lists all of
            them.
    """
    name = str(source or DEMO)
    table = _read(name)
    changes = _overrides(overrides)
    default = {"output": {"dir": f"runs/{Path(name).stem}"}}
    return parse(_merge(default, _merge(_without_replaced(table, changes), changes)), name)


def has(key: str, source: str | Path | None = None, overrides: Sequence[str] = ()) -> bool:
    """Return whether a configuration has the setting ``key``, such as "method.tau", which FedAvg does not have.

    An unknown section, method or other form has every setting: ``load`` reports it.

    Raises:
        ConfigError: the file or preset cannot be read, or an override is not of the form ``key=value``.
    """
    section, _, name = key.partition(".")
    forms = SECTIONS.get(section)
    changes = _overrides(overrides)
    table = _merge(_without_replaced(_read(str(source or DEMO)), changes), changes).get(section, {})
    form = forms.find(forms.named(table)) if forms and isinstance(table, dict) else None
    if form is None:
        return True
    field = form.model_fields.get(name.partition(".")[0])
    return field is not None and all(
        table.get(item.key, form.model_fields[item.key].default) in item.values
        for item in field.metadata
        if isinstance(item, When)
    )


def stored(table: Table, name: str) -> Config:
    """Return the configuration stored in a run folder; earlier versions of fedloru had other defaults.

    Raises:
        ConfigError: the configuration has problems.
    """
    config = parse(table, name)
    client, lowrank = config.client, config.lowrank
    # They recorded clip and alpha only if these were set; the defaults were no clipping and a scale of 1.
    if "clip" not in table.get("client", {}):
        client = client.model_copy(update={"clip": 0.0})
    if lowrank.alpha is None:
        alphas = alphas_of(lowrank.ranks or {}, lowrank.alphas or {}, float) or lowrank.alphas
        lowrank = lowrank.model_copy(update={"alpha": float(lowrank.rank), "alphas": alphas})
    return config._replace(client=client, lowrank=lowrank)


def dump(config: Config) -> Table:
    """Return ``config`` as a table with all defaults, without None; ``parse`` returns an equal configuration."""
    sections: Table = {}
    for name, forms in SECTIONS.items():
        section = getattr(config, name).model_dump(exclude_none=True)
        sections[name] = {forms.key: section[forms.key], **section} if forms.key else section
    return {"seed": config.seed, "rounds": config.rounds, **sections}


def text(config: Config) -> str:
    """Return ``config`` as complete TOML."""
    return tomli_w.dumps(dump(config))


def _read(name: str) -> Table:
    known = presets()
    try:
        return parse_toml(known[name]) if name in known else read_toml(Path(name))
    except FileNotFoundError as error:
        raise ConfigError([f"there is no such file and no such preset{choices(name, known)}"], name) from error
    except (OSError, UnreadableError) as error:
        raise ConfigError([str(error)], name) from error


def _overrides(overrides: Sequence[str]) -> Table:
    changes: Table = {}
    problems = []
    for override in overrides:
        try:
            changes = _merge(changes, _override(override))
        except UnreadableError:
            problems.append(f"{quoted(override)} is not of the form key=value, such as method.tau=5")
    if problems:
        raise ConfigError(problems, "the command line")
    return changes


def _override(override: str) -> Table:
    key, equals, value = override.partition("=")
    try:
        return parse_toml(f"{key} = {value}")
    except UnreadableError:
        # JSON's strings are TOML's basic strings.
        return parse_toml(f"{key} = {json.dumps(value.strip()) if equals else ''}")


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> Table:
    """Return ``old`` updated with ``new``; tables in both are merged recursively."""
    merged = dict(old)
    for key, value in new.items():
        both_tables = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], value) if both_tables else value
    return merged


def _without_replaced(table: Table, changes: Table) -> Table:
    """Return ``table`` without the settings that belong only to a form, or only apply to a value, that changes."""
    kept = dict(table)
    for name, forms in SECTIONS.items():
        old, new = table.get(name), changes.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            form = forms.find(forms.named(old | new))
            if form is not None:
                unused = _of_others(forms, old, new) - form.model_fields.keys() if forms.key in new else set()
                unused |= _unused(form, new) | _chosen_for_others(name, form, old, new)
                kept[name] = {key: value for key, value in old.items() if key not in unused}
    return kept


def _of_others(forms: Forms, old: Table, new: Table) -> set[str]:
    """Return the settings that belong to a form; those of a function are whatever ``old`` sets for it."""
    known = {key for form in forms.all.values() for key in form.model_fields}
    before = str(forms.named(old))
    return known | set(old) if before.startswith(PREFIX) and before != forms.named(new) else known


def _chosen_for_others(name: str, form: type[Section], old: Table, new: Table) -> set[str]:
    """Return the settings that were chosen for another value of a setting that ``new`` changes, with a warning."""
    chosen = {
        key: item.key
        for key, field in form.model_fields.items()
        for item in field.metadata
        if isinstance(item, Per) and key in old and key not in new and item.key in new
    }
    dropped = {key: on for key, on in chosen.items() if new[on] != old.get(on, form.model_fields[on].default)}
    for key, on in dropped.items():
        log.warning("%s.%s = %s is not used, since %s.%s was changed", name, key, old[key], name, on)
    return set(dropped)


def _unused(form: type[Section], changes: Table) -> set[str]:
    """Return the settings that have no effect any longer, because ``changes`` sets what they depend on."""
    conditions = {
        key: when
        for key, field in form.model_fields.items()
        for when in field.metadata
        if isinstance(when, When) and when.key in changes
    }
    return {key for key, when in conditions.items() if changes[when.key] not in when.values}
