"""The federated methods, one file each, and the table that finds them by name.

``METHODS[name](**config)`` makes a method; ``rebuild(name, config)`` also puts back the wrappers that its
configuration names, so that a method crosses a process as a name and a dictionary.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from fedloru.errors import ConfigError
from fedloru.method import Method
from fedloru.methods.fedavg import fedavg
from fedloru.methods.fedlora import fedlora
from fedloru.methods.fedloru import fedloru
from fedloru.methods.wrappers import clip, prox, server_opt

METHODS: dict[str, Callable[..., Method]] = {"fedavg": fedavg, "fedlora": fedlora, "fedloru": fedloru}
WRAPPERS: dict[str, Callable[..., Method]] = {"prox": prox, "server_opt": server_opt, "clip": clip}


def rebuild(name: str, config: Mapping[str, Any]) -> Method:
    """Return the method that ``(method.name, method.config)`` describe.

    Raises:
        ConfigError: no method has this name.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS) or list(METHODS)
        raise ConfigError([f"there is no method {name!r}; did you mean {' or '.join(near)}?"], "method")
    settings = dict(config)
    wraps = settings.pop("wrap", [])
    method = METHODS[name](**settings)
    for wrap in wraps:
        method = WRAPPERS[wrap["name"]](method, **{k: v for k, v in wrap.items() if k != "name"})
    return method


__all__ = ["METHODS", "WRAPPERS", "clip", "fedavg", "fedlora", "fedloru", "prox", "rebuild", "server_opt"]
