"""Settings of methods: those out of range are refused all at once, and variants have those of their method too."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, TypeVar

from fedloru.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def expect(holds: bool, name: str, value: object, expected: str) -> str | None:
    """Return what is wrong with a setting, or None."""
    return None if holds else f"{name} is {value!r}, expected {expected}"


def one_of(name: str, value: object, options: tuple[str, ...]) -> str | None:
    """Return what is wrong with a setting that must be one of ``options``, or None."""
    return expect(value in options, name, value, " or ".join(map(repr, options)))


def refuse(source: str, *problems: str | None) -> None:
    """Raise one ``ConfigError`` for all ``problems`` that there are.

    Raises:
        ConfigError: there are some.
    """
    found = [problem for problem in problems if problem]
    if found:
        raise ConfigError(found, source)


def extends(inner: Callable[..., Any]) -> Callable[[F], F]:
    """Let the signature of a function name the keyword arguments of ``inner``, which it takes as ``**settings``."""

    def decorate(function: F) -> F:
        shown = signature(function)
        own = [p for p in shown.parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
        function.__signature__ = shown.replace(  # type: ignore[attr-defined]
            parameters=[*own, *signature(inner).parameters.values()]
        )
        return function

    return decorate
