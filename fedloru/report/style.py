"""The common style of all figures: system fonts, thin grid lines, and the colors of the palette in their light form."""

from __future__ import annotations

import plotly.graph_objects as go

from fedloru.report.palette import BLUE as BLUE
from fedloru.report.palette import CLASSES as CLASSES
from fedloru.report.palette import GREEN as GREEN
from fedloru.report.palette import GREY as GREY
from fedloru.report.palette import GRID as GRID
from fedloru.report.palette import INK as INK
from fedloru.report.palette import MUTED as MUTED
from fedloru.report.palette import ORANGE as ORANGE
from fedloru.report.palette import PAPER as PAPER
from fedloru.report.palette import PURPLE as PURPLE
from fedloru.report.palette import SHADES as SHADES
from fedloru.report.palette import SKY as SKY
from fedloru.report.palette import VERMILLION as VERMILLION

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

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
        "hoverlabel": {
            "namelength": -1,
            "bgcolor": PAPER,
            "bordercolor": GRID,
            "font": {"family": FONT, "size": 12, "color": INK},
        },
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)
