"""The CSS and the script of a page, from ``assets/``, with the colors of the light and the dark theme."""

from __future__ import annotations

from importlib.resources import files

from fedloru.report.palette import DARK, VARIABLES

ASSETS = files("fedloru.report") / "assets"
"""The stylesheet and the script that are included in every page."""


def css() -> str:
    """Return the stylesheet: the theme of the system, unless ``data-theme`` of the root element names another."""
    light = "".join(f"--{name}: {color}; " for name, color in VARIABLES.items()) + "color-scheme: light;"
    dark = "".join(f"--{name}: {DARK[color]}; " for name, color in VARIABLES.items()) + "color-scheme: dark;"
    themes = (
        f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f':root[data-theme="light"] {{ {light} }}\n:root[data-theme="dark"] {{ {dark} }}\n'
        f"@media print {{ :root:root {{ {light} }} }}\n"
    )
    return themes + (ASSETS / "page.css").read_text(encoding="utf-8")


def script() -> str:
    """Return the script of a page."""
    return (ASSETS / "page.js").read_text(encoding="utf-8")
