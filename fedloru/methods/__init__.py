"""Federated methods, one file each, and the table of their names.

``METHODS[name](**settings)`` creates a method. ``rebuild(name, config)`` also applies the wrappers in its
configuration, so that a method can be sent to another process as a name and a dictionary. To write a method, compose
it from ``blocks`` and declare it with ``method``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedloru.errors import ConfigError
from fedloru.method import Method
from fedloru.methods import blocks, catalogue, ranks
from fedloru.methods.catalogue import *  # noqa: F403  # the public functions of the catalogue
from fedloru.methods.declare import (
    Declaration,
    declaration,
    method,
    wrapper,
    wrapper_declaration,
    wrapper_settings,
)
from fedloru.methods.wrappers import WRAPPERS
from fedloru.methods.wrappers.catalogue import *  # noqa: F403
from fedloru.settings import Table, calling, check, listed, settings_of, short, summary_of

METHODS: Table[Callable[..., Method]] = Table("method", listed(catalogue))
"""The methods by name; ``METHODS.find`` also finds ``python:package.module:function``."""


def title(name: str) -> str:
    """Return the name of a method as papers write it, such as "FedLoRU": how the docstring of its function begins.

    A ``python:`` name is not resolved: the title is the name of the function.
    """
    if name not in METHODS:
        return short(name)
    words, colon, _ = summary_of(METHODS[name]).partition(":")
    return words.partition(" (")[0] if colon else name


def make(name: str, settings: Mapping[str, Any]) -> Method:
    """Return the method called ``name``, or the one that a ``python:`` name refers to, with ``settings``.

    Raises:
        ConfigError: there is no such method or setting, or a setting is out of range.
    """
    function = METHODS.find(name)
    check(name, settings_of(function), settings)
    with calling(name, METHODS.error):
        made = function(**settings)
    if not isinstance(made, Method):
        raise ConfigError([f"it returned {type(made).__name__}, not a fedloru.Method"], name)
    declared = isinstance(getattr(function, "declaration", None), Declaration)
    return made if declared else made._replace(name=name, config=dict(settings), in_run=None)


def wrap(inner: Method, name: str, settings: Mapping[str, Any]) -> Method:
    """Return ``inner`` wrapped by the wrapper called ``name``, or by the one that a ``python:`` name refers to.

    Raises:
        ConfigError: there is no such wrapper or setting, a setting is out of range, or the method cannot be wrapped.
    """
    function = WRAPPERS.find(name)
    check(name, wrapper_settings(function), settings)
    with calling(name, WRAPPERS.error):
        made = function(inner, **settings)
    if not isinstance(made, Method):
        raise ConfigError([f"it returned {type(made).__name__}, not a fedloru.Method"], name)
    before, entries = inner.config.get("wrap", []), made.config.get("wrap", [])
    declared = entries[-1] if len(entries) > len(before) else settings
    return made._replace(config={**made.config, "wrap": [*before, {**declared, "name": name}]})


def rebuild(name: str, config: Mapping[str, Any]) -> Method:
    """Return the method that ``(method.name, method.config)`` describe.

    Raises:
        ConfigError: there is no such method, wrapper or setting, or a setting is out of range.
    """
    settings = dict(config)
    wraps = settings.pop("wrap", [])
    made = make(name, settings)
    for entry in wraps:
        others = dict(entry)
        made = wrap(made, others.pop("name"), others)
    return made


__all__ = [
    "METHODS",
    "WRAPPERS",
    "blocks",
    "declaration",
    "make",
    "method",
    "ranks",
    "rebuild",
    "wrap",
    "wrapper",
    "wrapper_declaration",
    "wrapper_settings",
]
