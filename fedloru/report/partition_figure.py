"""The figure of a partition: how many examples of each class each client has."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fedloru.errors import plain
from fedloru.report import style
from fedloru.report.class_counts import ClassCounts
from fedloru.report.records import Records

BARS, COLUMNS = 50, 240
"""The maximum number of clients in a bar chart, and of columns in a heat map (about what a screen can resolve)."""

NAME, LABELS = 24, 20
"""The maximum length of a class name, in characters, and the maximum number of class labels on a heat map."""


def skew(records: Records) -> go.Figure:
    """Plot the examples of each class on each client: stacked bars, or a heat map for many clients or classes."""
    counts, classes = ClassCounts.of(records.partition["counts"]), _names(records)
    clients = _clients(records)
    return _bars(counts, classes, clients) if _use_bars(records) else _heat_map(counts, classes, clients)


def caption(records: Records) -> str:
    """Return the caption of ``skew``, which says if clients are omitted."""
    clients = len(records.partition["counts"])
    if _use_bars(records):
        return f"Training examples of each of the {clients} clients, by class."
    order = "sorted by their most frequent class"
    shown = f"All {clients} clients, {order}"
    if clients > COLUMNS:
        shown = f"{COLUMNS} of {clients:,} clients, evenly sampled and {order}"
    return f"{shown}: number of training examples (bars) and share of each class (color)."


def _use_bars(records: Records) -> bool:
    return len(records.partition["counts"]) <= BARS and len(_names(records)) <= len(style.CLASSES)


def _names(records: Records) -> list[str]:
    return [escape(str(name), quote=False) for name in records.partition.get("classes") or ["examples"]]


def _clients(records: Records) -> list[str | int]:
    """Return the name or the number of each client, for labels."""
    names = [escape(plain(name, NAME), quote=False) for name in records.names]
    return [*names, *range(len(names), len(records.partition["counts"]))]


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _bars(counts: ClassCounts, classes: Sequence[str], clients: Sequence[str | int]) -> go.Figure:
    figure = style.figure("training examples", "client", height=110 + 19 * len(counts))
    for index, name in enumerate(classes):
        bar = go.Bar(x=[row[index] for row in counts], y=list(range(len(counts))), name=_short(name), orientation="h")
        bar.update(marker={"color": style.CLASSES[index], "line": {"color": style.PAPER, "width": 0.5}})
        bar.update(hovertemplate=f"client %{{customdata}}: %{{x:,}} of class {name}<extra></extra>", customdata=clients)
        figure.add_trace(bar)
    figure.update_layout(barmode="stack", bargap=0.15, hovermode="closest", legend_traceorder="normal")
    labels = {"tickvals": list(range(len(clients))), "ticktext": list(map(str, clients))}
    return figure.update_yaxes(labels, autorange="reversed", showgrid=False)


def _heat_map(counts: ClassCounts, classes: Sequence[str], names: Sequence[str | int]) -> go.Figure:
    clients = _sample(counts)
    totals = [sum(counts[client]) for client in clients]
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.22, 0.78], vertical_spacing=0.03)
    figure.update_layout(
        template=style.TEMPLATE, height=520, margin_b=28, hovermode="closest", showlegend=False, bargap=0
    )
    bars = go.Bar(
        y=totals, customdata=[names[client] for client in clients], marker={"color": style.GREY, "line": {"width": 0}}
    )
    figure.add_trace(bars.update(hovertemplate="client %{customdata}: %{y:,} examples<extra></extra>"), row=1, col=1)
    figure.add_trace(_shares(counts, classes, clients, names), row=2, col=1)
    figure.update_xaxes(showticklabels=False, showgrid=False)
    figure.update_xaxes(title_text="clients, sorted by their most frequent class", title_standoff=20, row=2, col=1)
    labeled = classes[:: -(-len(classes) // LABELS)]
    labels = {"type": "category", "tickvals": labeled, "ticktext": [_short(name) for name in labeled]}
    figure.update_yaxes(labels, autorange="reversed", showgrid=False, title_text="class", row=2, col=1)
    return figure.update_yaxes(title_text="examples", row=1, col=1)


def _shares(
    counts: ClassCounts, classes: Sequence[str], clients: Sequence[int], names: Sequence[str | int]
) -> go.Heatmap:
    selected = [counts[client] for client in clients]
    position = {"orientation": "h", "x": 1, "xanchor": "right", "xpad": 0, "y": 1.01, "yanchor": "bottom", "ypad": 0}
    return go.Heatmap(
        z=[[row[index] / max(sum(row), 1) for row in selected] for index in range(len(classes))],
        y=list(classes),
        customdata=[[(names[client], counts[client][index]) for client in clients] for index in range(len(classes))],
        zmin=0,
        colorscale=style.SHADES,
        colorbar={
            **position,
            "thickness": 8,
            "len": 0.6,
            "nticks": 5,
            "tickangle": 0,
            "tickformat": ".0%",
            "outlinewidth": 0,
        },
        hovertemplate="client %{customdata[0]}, class %{y}: %{customdata[1]:,} examples, %{z:.1%}<extra></extra>",
    )


def _sample(counts: ClassCounts) -> list[int]:
    """Return at most ``COLUMNS`` evenly spaced clients, sorted by their most frequent class and its share."""
    order = counts.by_top_class()
    columns = min(COLUMNS, len(order))
    return [int(order[index * len(order) // columns]) for index in range(columns)]
