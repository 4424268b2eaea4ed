"""One quiet look for every figure: system fonts, hairline grids, colours that colour-blind eyes tell apart."""

from __future__ import annotations

import plotly.graph_objects as go

INK, MUTED, GRID, PAPER = "#1f2933", "#5f6b7a", "#e6e9ed", "#ffffff"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

BLUE, ORANGE, SKY, GREEN, VERMILLION, PURPLE, GREY = (
    "#0072b2", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#9aa5b1",
)  # fmt: skip
"""The hues of Okabe and Ito (2008), made for all common kinds of colour blindness."""

KINDS = {
    "factors": BLUE,
    "dense": ORANGE,
    "statistics": SKY,
    "aux": PURPLE,
    "increments": GREEN,
    "first_download": VERMILLION,
    "envelope": GREY,
}
"""What bytes are sent for, in the order in which they are stacked; the same colour in every run."""

CLASSES = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#bbbbbb",
)  # fmt: skip
"""The muted scheme of Paul Tol's notes on colour, and a grey: as many as can be told apart side by side."""

SHADES = ((0.0, "#f4f6f8"), (0.25, "#a9cde4"), (0.6, "#2f86bd"), (1.0, "#08306b"))
"""From nothing to everything, also on paper."""


def figure(x: str, y: str, height: int = 320) -> go.Figure:
    """Return an empty figure with the names of its axes, as high as so many pixels."""
    made = go.Figure(layout={"template": TEMPLATE, "height": height})
    made.update_xaxes(title_text=x)
    made.update_yaxes(title_text=y)
    return made


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
    "fixedrange": True,  # a finger that scrolls the page must not zoom a plot
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
