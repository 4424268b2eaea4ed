"""The section [method], the sections of wrappers such as [server], and the method that they describe together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from fedloru.config.derive import Forms, forms_of, one_form, section
from fedloru.config.fields import Section
from fedloru.errors import ConfigError
from fedloru.method import Method
from fedloru.methods import METHODS, WRAPPERS, make, wrap, wrapper_declaration, wrapper_settings
from fedloru.recipe import Recipe
from fedloru.settings import Expected, Setting, summary_of
from fedloru.settings.types import Flag

METHOD, WRAP, NONE = "method", "wrap", "none"

FURTHER = Setting(
    WRAP,
    Annotated[list[dict[str, Any]], Expected("a list of tables, each with a name")],
    [],
    "further wrappers as tables with a name and settings, innermost first; also `python:package.module:function`",
)


def method_forms() -> Forms:
    """Return the forms of [method], one per method; wrappers that have no section are keys of all forms."""
    inside = [name for name in WRAPPERS if wrapper_declaration(WRAPPERS[name]).section == METHOD]
    base = section("Method", "", [*map(_key, inside), FURTHER])
    return forms_of(METHODS, "name", base, default="fedloru", meaning="the method")


def wrapper_forms() -> dict[str, Forms]:
    """Return the forms of the sections that set up a wrapper each.

    The first setting of a wrapper selects the form, ``none`` for not using it, unless it changes nothing by default.
    """
    return {section: _forms(wrapper) for section, wrapper in wrapper_sections().items()}


def wrapper_sections() -> dict[str, str]:
    """Return the sections that set up a wrapper each, with its name."""
    sections = {wrapper_declaration(function).section: name for name, function in WRAPPERS.items()}
    return {section: name for section, name in sections.items() if section != METHOD}


def assembled(sections: Mapping[str, Section], recipe: Recipe, clients: int) -> Method:
    """Return the configured method with its wrappers, applied in the order of the table.

    Raises:
        ConfigError: settings contradict each other.
    """
    chosen = sections[METHOD]
    keys = chosen.model_dump()
    name, further = keys.pop("name"), keys.pop(WRAP)
    made = make(name, {key: value for key, value in keys.items() if key not in WRAPPERS})
    for wrapper in WRAPPERS:
        settings = _wrapper_settings(wrapper, keys, sections, recipe, clients)
        if settings is not None:
            made = wrap(made, wrapper, settings)
    for entry in further:
        if not isinstance(entry.get("name"), str):
            raise ConfigError([f"method.wrap has the entry {entry!r}, expected a table with a name"], METHOD)
        made = wrap(made, entry["name"], {key: value for key, value in entry.items() if key != "name"})
    return made


def _wrapper_settings(
    name: str, keys: Mapping[str, Any], sections: Mapping[str, Section], recipe: Recipe, clients: int
) -> dict[str, Any] | None:
    """Return the settings of a wrapper, or None if it is not used."""
    declared = wrapper_declaration(WRAPPERS[name])
    if declared.section != METHOD:
        given = sections[declared.section].model_dump()
        off = {key: one.default for key, one in _settings(name).items()} if declared.inert else None
        return None if given == off or NONE in given.values() else given
    value = keys[name]
    if value in (None, False):
        return None
    if declared.from_run is not None:
        return declared.from_run(recipe, clients)
    return {next(iter(_settings(name))): value}


def _settings(name: str) -> Mapping[str, Setting]:
    return wrapper_settings(WRAPPERS[name])


def _key(name: str) -> Setting:
    """Return the key of [method] for a wrapper: its only setting, or a flag if the run supplies all settings."""
    if wrapper_declaration(WRAPPERS[name]).from_run is not None:
        return Setting(name, Flag, False, summary_of(WRAPPERS[name]))
    (setting,) = _settings(name).values()
    return setting._replace(name=name, annotation=setting.annotation | None, default=None)


def _forms(name: str) -> Forms:
    if wrapper_declaration(WRAPPERS[name]).inert:
        return one_form(summary_of(WRAPPERS[name]), _settings(name).values())
    first, *others = _settings(name).values()
    options = get_args(first.annotation)
    named = first._replace(annotation=Literal[options])
    chosen = section(name, summary_of(WRAPPERS[name]), [named, *others])
    off = Setting(first.name, Literal["none"], NONE, first.help)
    return Forms(first.name, {NONE: section("Off", "Not used.", [off])} | dict.fromkeys(options, chosen), NONE)
