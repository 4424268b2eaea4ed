"""The figure of participation in a federation: what came of the order to each client in each round."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go

from fedloru.report import style
from fedloru.report.clients import clients, selected, shown, which
from fedloru.report.figures import ticks
from fedloru.report.records import Records

CLIENTS, ROUNDS = 50, 400
"""The maximum number of clients and of rounds in the figure."""
NAME = 24
"""The maximum length of a name next to the figure."""
OUTCOMES = {"replied": style.BLUE, "refused": style.VERMILLION, "lost": style.ORANGE}


def caption(records: Records) -> str:
    """Return the caption of ``participation``, which says if clients or rounds are omitted."""
    rounds = len(records.rounds)
    last = f"The last {ROUNDS} of {rounds:,} rounds. " if rounds > ROUNDS else ""
    return (
        f"{which(clients(records), CLIENTS)}{last}Refused: its reply was not used, or it refused the order. Lost: it "
        "left or missed the deadline. Blank: it was not asked, or its reply came after the round was complete."
    )


def participation(records: Records) -> go.Figure:
    """Plot a grid of clients and rounds, colored by what came of the order."""
    names = [client.name for client in selected(clients(records), CLIENTS)]
    rows = records.rounds[-ROUNDS:]
    came = [_outcomes(row.get("federation") or {}) for row in rows]
    kinds = list(OUTCOMES)
    cells = [[by_name.get(name) for by_name in came] for name in names]
    figure = style.figure("round", "client", height=120 + 22 * len(names))
    grid = go.Heatmap(
        x=[row["round"] for row in rows],
        y=list(range(len(names))),
        z=[[None if cell is None else kinds.index(cell) for cell in line] for line in cells],
        text=[[cell or "" for cell in line] for line in cells],
        customdata=[[_full(name)] * len(rows) for name in names],
        zmin=0,
        zmax=len(kinds) - 1,
        colorscale=_steps(list(OUTCOMES.values())),
        showscale=False,
        xgap=2 if len(rows) <= 60 else 0,
        ygap=2,
        hoverongaps=False,
        hovertemplate="%{customdata}<br>round %{x}: %{text}<extra></extra>",
    )
    figure.add_trace(grid)
    for kind, color in OUTCOMES.items():
        key = {"color": color, "symbol": "square", "size": 10}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=key, name=kind))
    labels = {"tickvals": list(range(len(names))), "ticktext": [_label(name) for name in names]}
    figure.update_yaxes(labels, range=[len(names) - 0.5, -0.5], showgrid=False, title_text=None)
    figure.update_xaxes(ticks([row["round"] for row in rows])).update_xaxes(showgrid=False)
    return figure.update_layout(hovermode="closest", legend_itemclick=False, legend_itemdoubleclick=False)


def _outcomes(came: Mapping[str, Any]) -> dict[str, str]:
    """Return the outcome of a round by client; a client that was asked again counts with its reply, if it has one."""
    lost = dict.fromkeys(came.get("lost", []), "lost")
    refused = {entry["client"]: "refused" for entry in came.get("refused", [])}
    return lost | refused | dict.fromkeys(came.get("clients", {}), "replied")


def _full(name: str) -> str:
    return escape(shown(name), quote=False)


def _label(name: str) -> str:
    return escape(shown(name) if len(name) <= NAME else f"{shown(name[: NAME - 1])}…", quote=False)


def _steps(colors: list[str]) -> list[tuple[float, str]]:
    """Return a color scale of equal steps, one per color."""
    width = 1 / len(colors)
    return [(edge * width, color) for index, color in enumerate(colors) for edge in (index, index + 1)]
