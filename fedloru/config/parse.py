"""From a table, as TOML gives it, to a ``Config``: every problem is found before any is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from fedloru.config.checks import conflicts
from fedloru.config.fields import Section, either, expected
from fedloru.config.forms import NaturalPartition
from fedloru.config.schema import OWN_MODEL, PREFIXES, SECTIONS, Config, Forms, Top
from fedloru.errors import ConfigError, did_you_mean

Table = Mapping[str, Any]

TOP = ""
_ALL: dict[str, Forms] = {TOP: Forms("", {"": Top}), **SECTIONS}


def parse(table: Table, source: str = "the configuration") -> Config:
    """Return ``table`` as a complete configuration; ``source`` names it in messages.

    Raises:
        ConfigError: unknown keys, wrong types, values out of range, settings that contradict each other: all of them.
    """
    tables = {TOP: {key: value for key, value in table.items() if key not in SECTIONS}}
    tables |= {name: table.get(name, {}) for name in SECTIONS}
    valid: dict[str, Section] = {}
    problems: list[str] = []
    for name, given in tables.items():
        found = _section(name, given)
        if isinstance(found, Section):
            valid[name] = found
        else:
            problems += found
    problems += conflicts(valid)
    if problems:
        raise ConfigError(problems, source)
    config = Config(**dict(valid.pop(TOP)), **valid)  # type: ignore[arg-type]  # each section was made by its own form
    return _with_key(config)


def _with_key(config: Config) -> Config:
    """Keep the column that tells clients apart, where the data does not name it among its columns."""
    data, partition = config.data, config.partition
    kept: list[str] = getattr(data, "columns", [])
    if not isinstance(partition, NaturalPartition) or partition.key in kept:
        return config
    return config._replace(data=data.model_copy(update={"columns": [*kept, partition.key]}))


def _section(name: str, table: Any) -> Section | list[str]:
    if not isinstance(table, Mapping):
        return [f"{name} is {_shown(table)}, expected a table of settings, [{name}]"]
    forms = _ALL[name]
    asked = forms.named(table)
    form = forms.find(asked)
    if form is None:
        return [_no_form(name, forms, asked)]
    try:
        return form.model_validate(table)
    except ValidationError as error:
        return list(dict.fromkeys(_sentence(name, form, table, problem) for problem in error.errors()))


def _no_form(name: str, forms: Forms, asked: Any) -> str:
    names = [option for option in forms.by_name if option not in PREFIXES]
    hint = did_you_mean(get_close_matches(str(asked), names, n=1))
    own = " (or python:package.module:function, or hf:FOLDER)" if OWN_MODEL in forms.by_name else ""
    return f"{name}.{forms.key} is {_shown(asked)}, expected {either(names)}{own}{hint}"


def _sentence(name: str, form: type[Section], table: Table, error: Any) -> str:
    key = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return _unknown(name, form, key, table[key])
    wanted = expected(form.model_fields[key])
    if key not in table:
        return f"{_path(name, key)} is missing: {_asked(name, table)} needs it, expected {wanted}"
    return f"{_path(name, key)} is {_shown(table[key])}, expected {wanted}"


def _asked(name: str, table: Table) -> str:
    forms = _ALL[name]
    return f"{name}.{forms.key} = '{forms.named(table)}'"


def _unknown(name: str, form: type[Section], key: str, value: Any) -> str:
    path, forms = _path(name, key), _ALL[name]
    if owners := [other for other, fields in forms.by_name.items() if key in fields.model_fields]:
        return f"{path} is set, but only {name}.{forms.key} = {either(owners)} takes it: leave it out"
    if near := list(_nearest(name, form, key, isinstance(value, Mapping))):
        return f"{path} is not a setting{did_you_mean(near)}"
    what = f"those of [{name}]" if name else "those at the top"
    return f"{path} is not a setting; {what} are {', '.join(_known(name, form))}"


def _nearest(name: str, form: type[Section], key: str, is_table: bool) -> Iterator[str]:
    """Yield what may be meant: the same key elsewhere, or else the nearest one here, or else the nearest of all."""
    if is_table:
        yield from get_close_matches(key, SECTIONS, n=1)
        return
    everywhere = {
        _path(section, field): field
        for section, forms in _ALL.items()
        for known in forms.by_name.values()
        for field in known.model_fields
    }
    here = [] if key in everywhere.values() else get_close_matches(key, form.model_fields, n=1)
    near = here or get_close_matches(key, set(everywhere.values()), n=1, cutoff=0.7)
    yield from [_path(name, near[0])] if here else [path for path, field in everywhere.items() if field in near]


def _known(name: str, form: type[Section]) -> list[str]:
    return [*form.model_fields, *(() if name else SECTIONS)]


def _path(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
