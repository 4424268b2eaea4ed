"""Settings of methods that are out of range, refused all at once."""

from __future__ import annotations

from fedloru.errors import ConfigError


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
