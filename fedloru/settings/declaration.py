"""The settings of a function or a record, read from its signature and its docstring.

A setting is declared once: its name, type and default in the signature, its help under "Args" in the docstring. The
TOML form, its documentation, the checks and the record in a run folder are derived from this declaration. Help that
several functions of a module share goes under "Args" in the docstring of the module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from inspect import Parameter, cleandoc, signature
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

from docstring_parser.google import parse
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fedloru.errors import ConfigError, choices, quoted
from fedloru.settings.types import FromSize, When, expectation

REQUIRED = Parameter.empty
"""Marks a setting without a default."""

EXACT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
NAMED = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class Setting(NamedTuple):
    """One setting: ``annotation`` is its type with constraints, ``default`` may be ``REQUIRED``."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def expected(self) -> str:
        """The phrase for the expected values, such as "an integer >= 1"; "" if the type has none."""
        return expectation(self.annotation)

    @property
    def from_size(self) -> FromSize | None:
        """How the default follows from the size of a run; None if it does not."""
        return next((item for item in get_args(self.annotation)[1:] if isinstance(item, FromSize)), None)

    @property
    def when(self) -> When | None:
        """The condition under which the setting has an effect; None if it always has one."""
        return next((item for item in get_args(self.annotation)[1:] if isinstance(item, When)), None)


Source = Callable[..., Any]
"""A function or a record class (a NamedTuple or a dataclass) with typed parameters."""


@cache
def settings_of(source: Source, *, skip: frozenset[str] = frozenset()) -> Mapping[str, Setting]:
    """Return the settings of ``source`` by name, in the order of its signature.

    Positional-only parameters, ``*args``, ``**kwargs`` and names in ``skip`` are not settings. If ``source`` has an
    attribute ``extends``, the settings of that function come first.
    """
    plain = source.func if isinstance(source, partial) else source
    inherited = settings_of(base) if (base := getattr(source, "extends", None)) else {}
    types, help = get_type_hints(plain, include_extras=True), help_of(plain)
    return dict(inherited) | {
        name: Setting(name, types.get(name, Any), parameter.default, help.get(name, ""))
        for name, parameter in signature(source).parameters.items()
        if parameter.kind in NAMED and name not in skip and name not in inherited
    }


def is_reserved(name: str) -> bool:
    """Return whether pydantic keeps ``name`` for itself, so that no setting can be called this."""
    return name.startswith("_") or (name.startswith("model_") and hasattr(BaseModel, name))


def summary_of(source: Source) -> str:
    """Return the first paragraph of the docstring as one line."""
    plain = source.func if isinstance(source, partial) else source
    return " ".join((plain.__doc__ or "").strip().split("\n\n")[0].split())


def help_of(source: Source) -> dict[str, str]:
    """Return the help of each parameter, from the docstring of ``source`` or else of its module."""
    module = sys.modules.get(getattr(source, "__module__", ""))
    texts = [getattr(module, "__doc__", None), source.__doc__]
    return {name: text for doc in texts for name, text in _arguments(doc)}


def check(source: str, declared: Mapping[str, Setting], given: Mapping[str, Any]) -> None:
    """Raise one error for all settings in ``given`` that are unknown, missing or not of their declared type.

    Raises:
        ConfigError: there is such a setting; ``source`` says where the settings come from.
    """
    problems = [f"there is no setting {quoted(key)}{choices(key, declared)}" for key in given if key not in declared]
    missing = [one for name, one in declared.items() if one.default is REQUIRED and name not in given]
    problems += [f"{one.name} is missing, expected {one.expected or 'a value'}" for one in missing]
    problems += problems_of(declared, given)
    if problems:
        raise ConfigError(problems, source)


def problems_of(declared: Mapping[str, Setting], given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each value that is not of the declared type; types without a phrase are not checked."""
    for name, value in given.items():
        setting = declared.get(name)
        if setting is None or not setting.expected:
            continue
        try:
            TypeAdapter(setting.annotation, config=EXACT).validate_python(value)
        except ValidationError:
            optional = " or None" if NoneType in get_args(setting.annotation) else ""
            yield f"{name} is {quoted(value)}, expected {setting.expected}{optional}"


def _arguments(doc: str | None) -> Iterator[tuple[str, str]]:
    for parameter in parse(cleandoc(doc or "")).params:
        yield parameter.arg_name, " ".join((parameter.description or "").split())


def takes_more(source: Source) -> bool:
    """Return whether ``source`` accepts keyword arguments other than its settings."""
    return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in signature(source).parameters.values())
