"""The colors of pages and figures, each declared once: a light one, and the dark one that replaces it in dark mode.

Lines and markers have a contrast of at least 3:1 to the paper in both themes, and text of at least 4.5:1 (WCAG 2.2).
"""

from __future__ import annotations

INK, MUTED, GRID, PAPER, GROUND = "#1f2933", "#5f6b7a", "#e6e9ed", "#ffffff", "#f4f6f8"
NOTE, EDGE = "#fff7e0", "#c27c01"
"""The background and the edge of a highlighted note."""

BLUE, ORANGE, SKY, GREEN, VERMILLION, PURPLE, GREY = (
    "#0072b2", "#c27c00", "#3a94cc", "#008a64", "#d55e00", "#b8578c", "#7f8b98",
)  # fmt: skip
"""The palette of Okabe and Ito (2008), designed for all common types of color blindness; pale hues are darkened."""

CLASSES = (
    "#332288", "#4a9cc9", "#2f998b", "#117733", "#8a8a2c", "#a8891a", "#c25a68", "#882255", "#aa4499", "#7d7d7d",
)  # fmt: skip
"""Paul Tol's muted palette plus a gray, pale hues darkened: as many colors as can be told apart in one figure."""

SHADES = ((0.0, GROUND), (0.25, "#a9cde4"), (0.6, "#2f86bd"), (1.0, "#08306b"))
"""A color scale for shares from 0 to 1, also suitable for print."""

DARK = {
    INK: "#e4e9ee",
    MUTED: "#a3afbc",
    GRID: "#323c48",
    PAPER: "#1a212a",
    GROUND: "#11161c",
    NOTE: "#3a3018",
    EDGE: "#f0b13b",
    **dict(zip((BLUE, ORANGE, SKY, GREEN), ("#56a8e0", "#f0b13a", "#8fd0f5", "#3cc39a"), strict=True)),
    **dict(zip((VERMILLION, PURPLE, GREY), ("#ff8a4a", "#e39cc4", "#8a97a6"), strict=True)),
    **dict(zip(CLASSES[:5], ("#8f7ff0", "#88ccee", "#44bba8", "#4fb374", "#b9b94a"), strict=True)),
    **dict(zip(CLASSES[5:], ("#ddcc77", "#e08490", "#d0679f", "#cf7fc2", "#bbbbbb"), strict=True)),
    **dict(zip((color for _, color in SHADES[1:]), ("#2c5878", "#4aa0d8", "#d9eefc"), strict=True)),
}
"""The dark color for each light one."""

VARIABLES = {
    "ink": INK, "muted": MUTED, "line": GRID, "paper": PAPER, "ground": GROUND, "blue": BLUE, "grey": GREY,
    "note": NOTE, "edge": EDGE,
}  # fmt: skip
"""The names of the colors that the stylesheet uses."""
