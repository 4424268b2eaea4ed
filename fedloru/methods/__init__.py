"""The federated methods, one file each, and the table that finds them by name.

``METHODS[name](**config)`` makes a method; ``rebuild(name, config)`` also puts back the wrappers that its
configuration names, so that a method crosses a process as a name and a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from fedloru.errors import ConfigError, choices
from fedloru.method import Method
from fedloru.methods.fedavg import fedavg
from fedloru.methods.fedex import fedex
from fedloru.methods.fedhm import fedhm
from fedloru.methods.fedlmt import fedlmt
from fedloru.methods.fedlora import fedlora
from fedloru.methods.fedloru import fedloru
from fedloru.methods.fedmud import fedmud
from fedloru.methods.fedpara import fedpara
from fedloru.methods.fedsa import fedsa
from fedloru.methods.ffalora import ffalora
from fedloru.methods.flexlora import flexlora
from fedloru.methods.flora import flora
from fedloru.methods.hetlora import hetlora
from fedloru.methods.mfedloru import mfedloru
from fedloru.methods.pfedloru import pfedloru
from fedloru.methods.rolora import rolora
from fedloru.methods.wrappers import clip, prox, scaffold, server_opt

METHODS: dict[str, Callable[..., Method]] = {
    "fedavg": fedavg,
    "fedlora": fedlora,
    "fedloru": fedloru,
    "pfedloru": pfedloru,
    "mfedloru": mfedloru,
    "ffalora": ffalora,
    "rolora": rolora,
    "fedsa": fedsa,
    "flora": flora,
    "fedex": fedex,
    "fedhm": fedhm,
    "fedlmt": fedlmt,
    "fedmud": fedmud,
    "fedpara": fedpara,
    "flexlora": flexlora,
    "hetlora": hetlora,
}
WRAPPERS: dict[str, Callable[..., Method]] = {
    "prox": prox,
    "scaffold": scaffold,
    "server_opt": server_opt,
    "clip": clip,
}


def rebuild(name: str, config: Mapping[str, Any]) -> Method:
    """Return the method that ``(method.name, method.config)`` describe.

    Raises:
        ConfigError: no method or wrapper has such a name or setting, or a setting is out of range.
    """
    settings = dict(config)
    wraps = settings.pop("wrap", [])
    method = _make(METHODS, "method", name, settings)
    for wrap in wraps:
        settings = dict(wrap)
        method = _make(WRAPPERS, "wrapper", settings.pop("name"), settings, method)
    return method


def _make(
    table: Mapping[str, Callable[..., Method]], kind: str, name: str, settings: Mapping[str, Any], *inner: Method
) -> Method:
    if name not in table:
        raise ConfigError([f"there is no {kind} {name!r}{choices(name, table)}"], kind)
    known = [key for key, p in signature(table[name]).parameters.items() if p.kind is p.KEYWORD_ONLY]
    unknown = [f"there is no setting {key!r}{choices(key, known)}" for key in settings if key not in known]
    if unknown:
        raise ConfigError(unknown, name)
    return table[name](*inner, **settings)


__all__ = [
    "METHODS",
    "WRAPPERS",
    "clip",
    "fedavg",
    "fedex",
    "fedhm",
    "fedlmt",
    "fedlora",
    "fedloru",
    "fedmud",
    "fedpara",
    "fedsa",
    "ffalora",
    "flexlora",
    "flora",
    "hetlora",
    "mfedloru",
    "pfedloru",
    "prox",
    "rebuild",
    "rolora",
    "scaffold",
    "server_opt",
]
