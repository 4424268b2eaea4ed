"""The common style of all figures: system fonts, thin grid lines, and colors suited to color-blind readers."""

from __future__ import annotations

import plotly.graph_objects as go

INK, MUTED, GRID, PAPER = "#1f2933", "#5f6b7a", "#e6e9ed", "#ffffff"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

BLUE, ORANGE, SKY, GREEN, VERMILLION, PURPLE, GREY = (
    "#0072b2", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#9aa5b1",
)  # fmt: skip
"""The palette of Okabe and Ito (2008), designed for all common types of color blindness."""

KINDS = {
    "factors": BLUE,
    "dense": ORANGE,
    "statistics": SKY,
    "aux": PURPLE,
    "increments": GREEN,
    "first_download": VERMILLION,
    "envelope": GREY,
}
"""The color of each kind of bytes, in stacking order; the same in every report."""

CLASSES = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#bbbbbb",
)  # fmt: skip
"""Paul Tol's muted palette plus a gray: about as many colors as can be told apart in one figure."""

SHADES = ((0.0, "#f4f6f8"), (0.25, "#a9cde4"), (0.6, "#2f86bd"), (1.0, "#08306b"))
"""A color scale for shares from 0 to 1, also suitable for print."""


def figure(x: str, y: str, height: int = 320) -> go.Figure:
    """Return an empty figure with the given axis titles and a height in pixels."""
    empty = go.Figure(layout={"template": TEMPLATE, "height": height})
    empty.update_xaxes(title_text=x)
    empty.update_yaxes(title_text=y)
    return empty


_AXIS = {
    "gridcolor": GRID,
    "linecolor": GRID,
    "zeroline": False,
    "separatethousands": True,
    "exponentformat": "none",
    "ticks": "outside",
    "ticklen": 5,
    "tickcolor": "rgba(0, 0, 0, 0)",
    "automargin": True,
    "fixedrange": True,  # scrolling the page on a touch screen must not zoom a plot
    "title": {"font": {"size": 12, "color": MUTED}, "standoff": 14},
    "tickfont": {"size": 12, "color": MUTED},
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "colorway": [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY],
        "margin": {"l": 8, "r": 12, "t": 8, "b": 0},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": GRID, "font": {"family": FONT, "size": 12, "color": INK}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)
