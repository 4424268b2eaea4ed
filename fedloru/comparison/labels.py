"""Labels of groups as a reader would write them: the method, then the settings that distinguish it, as in FedLoRU τ=5.

A setting of a method is part of a label only if it differs between groups of this method; any other setting, only if it
differs between two groups of one method, and then it is part of all labels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedloru.errors import ConfigError, choices, plain, quoted
from fedloru.methods import title
from fedloru.settings import short

METHOD = "method.name"
FORMS = (METHOD, "model.name", "data.source", "partition.scheme", "server.rule", "aggregation.rule")
"""The settings that select the form of a section; settings of two different forms are not compared."""

SYMBOLS = {"method.tau": "τ", "partition.alpha": "α", "client.lr": "rate", "server.lr": "server rate"}
"""The names of settings in labels; otherwise, the last part of the key, or, of ``FORMS``, the first."""

LONGEST = 40
"""The largest number of characters of a value in a label."""

SOURCE = "compare"
"""What messages name as the source of a mistake."""

Settings = dict[str, Any]


def labels(configurations: Sequence[Settings], names: Mapping[str, str]) -> list[str]:
    """Return a distinct label for each of ``configurations``; ``names`` replaces labels, or methods in them.

    Raises:
        ConfigError: a key of ``names`` is neither a label nor a method, or two labels would be the same.
    """
    shown, titles = _shown(configurations), _titles(configurations)
    bare = list(map(_label, titles, shown, configurations))
    written = _distinct(bare)
    methods = {name for settings in configurations for name in of_method(settings)}
    if unknown := [old for old in names if old not in written and old not in methods]:
        known = choices(unknown[0], [*written, *methods])
        raise ConfigError([f"{quoted(unknown[0])} is neither a label nor a method of the runs{known}"], SOURCE)
    for index, settings in enumerate(configurations):
        titles[index] = next((names[name] for name in of_method(settings) if name in names), titles[index])
    renamed = map(_label, titles, shown, configurations)
    numbers = [label.removeprefix(start) for label, start in zip(written, bare, strict=True)]
    written = [names.get(old, f"{new}{number}") for old, new, number in zip(written, renamed, numbers, strict=True)]
    if same := [label for label, count in Counter(written).items() if count > 1]:
        raise ConfigError([f"two groups would have the label {quoted(same[0])}: choose other names"], SOURCE)
    return written


def _distinct(written: Sequence[str]) -> list[str]:
    """Return labels, numbered where they are the same, because long values are cut."""
    distinct: list[str] = []
    for label in written:
        distinct.append(f"{label} #{len(distinct) + 1}" if label in distinct else label)
    return distinct


def title_of(settings: Settings) -> str:
    """Return the title of the method of a group."""
    return title(str(settings[METHOD])) if METHOD in settings else "runs"


def of_method(settings: Settings) -> tuple[str, str]:
    """Return the two names of the method of a group, such as ("fedloru", "FedLoRU")."""
    return str(settings.get(METHOD)), title_of(settings)


def _titles(configurations: Sequence[Settings]) -> list[str]:
    """Return the title of each group's method, or its full name if another method has the same title."""
    methods = {str(settings.get(METHOD)): title_of(settings) for settings in configurations}
    counts = Counter(methods.values())
    return [
        found if counts[found := methods[name]] == 1 else name for name in (str(c.get(METHOD)) for c in configurations)
    ]


def _label(name: str, keys: Sequence[str], settings: Settings) -> str:
    return f"{name} {', '.join(_part(key, keys, settings) for key in keys)}".strip()


def _shown(configurations: Sequence[Settings]) -> list[list[str]]:
    """Return the settings in the label of each group; one that is off is omitted where that is clear."""
    shown: list[list[str]] = [[] for _ in configurations]
    keys = dict.fromkeys(key for settings in configurations for key in settings if key != METHOD)
    for key in sorted(keys, key=lambda key: (not _is_own(key), key not in FORMS)):
        varied = _varied(key, configurations)
        compared = [settings.get(key) for settings in configurations if _form(key, settings) in varied]
        off = {json.dumps(value) for value in compared if _is_off(value)}
        for settings, chosen in zip(configurations, shown, strict=True):
            part = _form(key, settings) in varied or (bool(varied) and not _is_own(key) and key in settings)
            if part and (len(off) > 1 or not _is_off(settings.get(key))):
                chosen.append(key)
    return shown


def _varied(key: str, configurations: Sequence[Settings]) -> set[Any]:
    """Return the forms in which ``key`` has several values."""
    values: dict[Any, set[str]] = {}
    for settings in configurations:
        values.setdefault(_form(key, settings), set()).add(json.dumps(settings.get(key), sort_keys=True, default=str))
    return {form for form, found in values.items() if len(found) > 1}


def _form(key: str, settings: Settings) -> tuple[Any, ...]:
    """Return what two groups must have in common for their values of ``key`` to be compared."""
    section = key.partition(".")[0]
    selectors = () if key in FORMS else (form for form in FORMS if form.partition(".")[0] == section)
    return tuple(str(settings.get(form)) for form in (METHOD, *selectors))


def _is_own(key: str) -> bool:
    return key.startswith("method.")


def _is_off(value: Any) -> bool:
    return value is None or value is False or value == "none"


def _part(key: str, keys: Sequence[str], settings: Settings) -> str:
    name = _name(key)
    if [_name(other) for other in keys].count(name) > 1:
        name = key
    if settings.get(key) is None:
        return f"no {name}"
    return name if settings[key] is True else f"{name}={_value(settings[key])}"


def _name(key: str) -> str:
    section, _, last = key.rpartition(".")
    return SYMBOLS.get(key) or (section if key in FORMS else last.replace("_", " "))


def _value(value: Any) -> str:
    if isinstance(value, dict) and len({json.dumps(inner, default=str) for inner in value.values()}) == 1:
        return _value(next(iter(value.values())))  # such as the rank of every layer
    if isinstance(value, float):
        return f"{value:g}"
    return plain(
        short(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), LONGEST
    )
