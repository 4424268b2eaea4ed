"""Parse a table, as read from TOML, into a ``Config``; all problems are reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from fedloru.config.checks import conflicts
from fedloru.config.derive import Forms
from fedloru.config.fields import Section, expected, shown
from fedloru.config.schema import SECTIONS, Config, Top
from fedloru.config.texts import is_language_model
from fedloru.errors import QUOTED, ConfigError, did_you_mean, plain
from fedloru.methods import paper
from fedloru.settings import one_of
from fedloru.settings.table import SYNTAX

Table = Mapping[str, Any]

TOP = ""
_PUBLISHED = paper.Settings.__annotations__.keys() - {"tau"}
"""The settings that only the published recipe of FedLoRU has."""
_FORMS: dict[str, Forms] = {TOP: Forms("", {"": Top}), **SECTIONS}


def parse(table: Table, source: str = "the configuration") -> Config:
    """Return ``table`` as a complete configuration; ``source`` names it in messages.

    Raises:
        ConfigError: there are unknown keys, wrong types, values out of range, or settings that contradict each other;
            the message lists all of them.
    """
    tables = {TOP: {key: value for key, value in table.items() if key not in SECTIONS}}
    tables |= {name: table.get(name, {}) for name in SECTIONS}
    valid: dict[str, Section] = {}
    problems: list[str] = []
    for name, values in tables.items():
        parsed = _section(name, values)
        if isinstance(parsed, Section):
            valid[name] = parsed
        else:
            problems += parsed
    _choose_optimizer(valid, table.get("client", {}))
    _choose_recipe(valid, table.get("method", {}))
    problems += conflicts(valid)
    if problems:
        raise ConfigError(problems, source)
    config = Config(**dict(valid.pop(TOP)), **valid)  # type: ignore[arg-type]  # each section is an instance of one of its forms
    return _with_client_column(config)


def _choose_optimizer(sections: dict[str, Section], given: Table) -> None:
    """Train a language model with AdamW, unless ``given``, the table [client], has an optimizer or a setting of SGD."""
    if not {"client", "model"} <= sections.keys() or {"optimizer", "momentum"} & given.keys():
        return
    if is_language_model(sections["model"]):
        sections["client"] = sections["client"].model_copy(update={"optimizer": "adamw"})


def _choose_recipe(sections: dict[str, Section], given: Table) -> None:
    """Choose the published recipe of FedLoRU if ``given``, the table [method], has one of its settings, but no recipe.

    Configurations of earlier versions, which had no other recipe, are complete and so have these settings.
    """
    chosen = sections.get("method")
    if getattr(chosen, "name", "") == "fedloru" and "recipe" not in given and given.keys() & _PUBLISHED:
        assert chosen is not None
        sections["method"] = chosen.model_copy(update={"recipe": "paper"})


def _with_client_column(config: Config) -> Config:
    """Add the column that defines the clients of a natural partition to the columns that are loaded."""
    data, partition = config.data, config.partition
    columns: list[str] = getattr(data, "columns", [])
    if partition.scheme != "natural" or partition.key in columns:
        return config
    return config._replace(data=data.model_copy(update={"columns": [*columns, partition.key]}))


def _section(name: str, table: Any) -> Section | list[str]:
    """Return the parsed section, or its problems."""
    if not isinstance(table, Mapping):
        return [f"{name} is {shown(table)}, expected a table of settings, [{name}]"]
    forms = _FORMS[name]
    if large := [key for key, value in table.items() if _is_large(value)]:
        return [f"{_path(name, key)} has an integer of more than 64 bits, which TOML does not have" for key in large]
    selected = forms.named(table)
    form = forms.find(selected)
    if form is None:
        return [_no_form(name, forms, selected)]
    try:
        return form.model_validate(table)
    except ValidationError as error:
        return list(dict.fromkeys(_message(name, form, table, details) for details in error.errors()))


def _is_large(value: Any) -> bool:
    """Return whether ``value`` is, or contains, an integer that TOML cannot represent."""
    if isinstance(value, Mapping):
        return any(map(_is_large, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_large, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _no_form(name: str, forms: Forms, selected: Any) -> str:
    near = get_close_matches(selected[:QUOTED], forms.by_name, n=1) if isinstance(selected, str) else []
    hint = did_you_mean(near)
    others = [SYNTAX] * (forms.reference is not None) + [f"or {prefix}FOLDER" for prefix in forms.prefixes]
    more = f" ({', '.join(others)})" if others else ""
    return f"{name}.{forms.key} is {shown(selected)}, expected {one_of(forms.by_name)}{more}{hint}"


def _message(name: str, form: type[Section], table: Table, details: Any) -> str:
    """Return the message for an error of pydantic."""
    key = str(details["loc"][0])
    if details["type"] == "extra_forbidden":
        return _unknown(name, form, key, table[key])
    wanted = expected(form.model_fields[key])
    if key not in table:
        return f"{_path(name, key)} is missing: {_selection(name, table)} requires it, expected {wanted}"
    return f"{_path(name, key)} is {shown(table[key])}, expected {wanted}"


def _selection(name: str, table: Table) -> str:
    forms = _FORMS[name]
    return f"{name}.{forms.key} = '{forms.named(table)}'"


def _unknown(name: str, form: type[Section], key: str, value: Any) -> str:
    path, forms, key = _path(name, key), _FORMS[name], key[:QUOTED]
    if owners := [other for other, fields in forms.all.items() if key in fields.model_fields]:
        return f"{path} is set, but only {name}.{forms.key} = {one_of(owners)} has this setting: remove it"
    if near := list(_nearest(name, form, key, isinstance(value, Mapping))):
        return f"{path} is not a setting{did_you_mean(near)}"
    place = f"[{name}] has" if name else "the top level has"
    return f"{path} is not a setting; {place} {', '.join(_known(name, form))}"


def _nearest(name: str, form: type[Section], key: str, is_table: bool) -> Iterator[str]:
    """Yield suggestions: the same key in other sections, or the most similar key in this one, or in any."""
    if is_table:
        yield from get_close_matches(key, SECTIONS, n=1)
        return
    everywhere = {
        _path(section, field): field
        for section, forms in _FORMS.items()
        for known in forms.all.values()
        for field in known.model_fields
    }
    here = [] if key in everywhere.values() else get_close_matches(key, form.model_fields, n=1)
    near = here or get_close_matches(key, set(everywhere.values()), n=1, cutoff=0.7)
    yield from [_path(name, near[0])] if here else [path for path, field in everywhere.items() if field in near]


def _known(name: str, form: type[Section]) -> list[str]:
    return [*form.model_fields, *(() if name else SECTIONS)]


def _path(section: str, key: str) -> str:
    return plain(f"{section}.{key}" if section else key)
