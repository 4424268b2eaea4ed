"""How a wrapper is written into a method's configuration, so that the wrapped method can be rebuilt elsewhere."""

from __future__ import annotations

from typing import Any

from fedloru.method import Method


def wrapped(method: Method, name: str, settings: dict[str, Any]) -> Method:
    """Return ``method`` with one more entry under ``config["wrap"]``, innermost first."""
    wrap = [*method.config.get("wrap", []), {"name": name, **settings}]
    return method._replace(config={**method.config, "wrap": wrap})
