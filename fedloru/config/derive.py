"""Sections derived from declarations: one form per entry of a table, with the settings of its function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import ConfigDict, Field, create_model

from fedloru.config.fields import Section
from fedloru.errors import FedloruError
from fedloru.settings import PREFIX, REQUIRED, Setting, Table, is_reference, settings_of, summary_of
from fedloru.settings.declaration import is_reserved, takes_more

PLAIN = (bool, int, float, str, list, tuple, dict, type(None))
"""The types of values that TOML can hold."""


class Forms(NamedTuple):
    """The forms of a section by the value of ``key``; a section with a single form has no key.

    ``reference`` creates the form of a ``python:`` name, and ``prefixes`` are the forms of names with these prefixes.
    """

    key: str
    by_name: Mapping[str, type[Section]]
    default: str = ""
    reference: Callable[[str], type[Section]] | None = None
    prefixes: Mapping[str, type[Section]] = {}

    def named(self, table: Mapping[str, Any]) -> Any:
        """Return the name of the form that ``table`` selects; the form may not exist."""
        return table.get(self.key, self.default) if self.key else self.default

    def find(self, name: Any) -> type[Section] | None:
        """Return the form of this name, or None if there is none."""
        if not isinstance(name, str):
            return None
        if self.reference is not None and name.startswith(PREFIX):
            return self.reference(name) if is_reference(name) else None
        by_prefix = next((form for prefix, form in self.prefixes.items() if name.startswith(prefix)), None)
        return by_prefix or self.by_name.get(name)

    @property
    def all(self) -> dict[str, type[Section]]:
        """All forms by name or prefix, except those of references."""
        return {**self.by_name, **self.prefixes}


def one_form(doc: str, settings: Iterable[Setting], base: type[Section] = Section) -> Forms:
    """Return the forms of a section with a single form."""
    return Forms("", {"": section("Section", doc, settings, base)})


def forms_of(
    table: Table[Any],
    key: str,
    base: type[Section],
    *,
    default: str,
    meaning: str,
    skip: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
    others: Mapping[str, type[Section]] | None = None,
    prefixes: Mapping[str, type[Section]] | None = None,
) -> Forms:
    """Return the forms of a section whose ``key`` names an entry of ``table``.

    Args:
        table: the table of functions.
        key: the setting that selects the form.
        base: the settings that all forms have in common.
        default: the name of the form that is used by default.
        meaning: the help of the key.
        skip: the parameters of the functions that are not settings.
        defaults: the defaults of parameters that have none in Python.
        others: further forms by name.
        prefixes: further forms by the prefixes of their names.
    """
    left_out = frozenset({*skip, key, *base.model_fields})

    def of_function(name: str, function: Any, own: bool) -> type[Section]:
        settings = [one for one in settings_of(function, skip=left_out).values() if not is_reserved(one.name)]
        declared = [_with_default(one, defaults or {}) for one in settings]
        chosen = [one for one in declared if not own or one.default is REQUIRED or isinstance(one.default, PLAIN)]
        named = Setting(key, Literal[name], name, meaning)
        return section(name, summary_of(function), [named, *chosen], base, more=own and takes_more(function))

    def reference(name: str) -> type[Section]:
        try:
            return of_reference(name, table.find(name))
        except FedloruError:  # reported when the function is needed; other commands work without it
            return of_reference(name, None)

    @cache  # equal sections have the same class
    def of_reference(name: str, function: Any) -> type[Section]:
        if function is not None:
            return of_function(name, function, True)
        named = Setting(key, str, REQUIRED, meaning)
        return section(name, "A function that cannot be imported.", [named], base, more=True)

    by_name = {name: of_function(name, function, False) for name, function in table.items()} | dict(others or {})
    first = {default: by_name[default]}
    return Forms(key, first | by_name, default, reference, prefixes or {})


def section(
    name: str, doc: str, settings: Iterable[Setting], base: type[Section] = Section, *, more: bool = False
) -> type[Section]:
    """Return a section with one field per setting; with ``more``, it also accepts other keys."""
    fields = {one.name: (one.annotation, _field(one)) for one in settings}
    with warnings.catch_warnings():  # a setting may have the name of a deprecated method of pydantic, such as copy
        warnings.simplefilter("ignore", UserWarning)
        made: type[Section] = create_model(name, __base__=base, __doc__=doc, **fields)  # type: ignore[call-overload]
    if more:
        made.model_config = ConfigDict(**{**made.model_config, "extra": "allow"})
        made.model_rebuild(force=True)
    return made


def _with_default(setting: Setting, defaults: Mapping[str, Any]) -> Setting:
    return setting._replace(default=defaults.get(setting.name, setting.default))


def _is_tuple(annotation: Any) -> bool:
    inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return get_origin(inner) is tuple


def _field(setting: Setting) -> Any:
    if setting.default is REQUIRED:
        return Field(description=setting.help)
    listed = isinstance(setting.default, tuple) and not _is_tuple(setting.annotation)
    default = list(setting.default) if listed else setting.default
    return Field(default=default, description=setting.help)
