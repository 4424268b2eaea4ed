"""The pictures of a run, as functions of its records: plotly figures in one look, without a side effect."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fedloru.report import style
from fedloru.report.records import Records, evaluations

MEGA = 1e6
DOTS = 60
"""Up to so many points, each is a dot on its line."""


def accuracy(records: Records) -> go.Figure:
    """Draw the test accuracy over rounds, and where factors were merged."""
    rows = evaluations(records)
    figure = style.figure("round", "test accuracy")
    figure.add_trace(_line(_column(rows, "round"), _column(rows, "test_accuracy"), "test accuracy", style.BLUE))
    figure.update_traces(hovertemplate="%{y:.2%}").update_yaxes(tickformat=".1~%")
    return _over_rounds(figure, records)


def loss(records: Records) -> go.Figure:
    """Draw the training and the test loss in nats over rounds, and where factors were merged."""
    tested = evaluations(records, "test_loss")
    figure = style.figure("round", "loss (nats)")
    for rows, part, colour in ((records.rounds, "train", style.VERMILLION), (tested, "test", style.BLUE)):
        if rows:
            figure.add_trace(_line(_column(rows, "round"), _column(rows, f"{part}_loss"), part, colour))
    figure.update_traces(hovertemplate="%{y:.4f}")
    return _over_rounds(figure, records)


def accuracy_over_bytes(records: Records) -> go.Figure:
    """Draw the test accuracy over all that was sent, up and down together, in MB of 10⁶ bytes."""
    return _over_bytes(records, "test_accuracy", "test accuracy", ".2%").update_yaxes(tickformat=".1~%")


def loss_over_bytes(records: Records) -> go.Figure:
    """Draw the test loss in nats over all that was sent, up and down together, in MB of 10⁶ bytes."""
    return _over_bytes(records, "test_loss", "test loss (nats)", ".4f")


def _over_bytes(records: Records, field: str, title: str, form: str) -> go.Figure:
    rows = evaluations(records, field)
    sent = [(row["up_bytes_total"] + row["down_bytes_total"]) / MEGA for row in rows]
    figure = style.figure("MB sent, up and down together", title)
    figure.add_trace(_line(sent, _column(rows, field), title, style.GREEN))
    figure.update_traces(
        customdata=_column(rows, "round"),
        hovertemplate=f"%{{y:{form}}} after %{{x:,.2f}} MB<br>round %{{customdata}}<extra></extra>",
    )
    return figure.update_layout(hovermode="closest").update_xaxes(rangemode="tozero")


def bytes_by_kind(records: Records) -> go.Figure:
    """Draw what has been sent so far, by kind, down above up, in MB of 10⁶ bytes."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.1)
    figure.update_layout(template=style.TEMPLATE, height=400)
    rounds = [0, *_column(records.rounds, "round")]
    shown: set[str] = set()
    for place, way in enumerate(("down", "up"), 1):
        for kind, sent in _sent(records, way).items():
            area = _area(rounds, sent, kind, way).update(showlegend=kind not in shown)
            figure.add_trace(area, row=place, col=1)
            shown.add(kind)
        figure.update_yaxes(title_text=f"MB {way}", rangemode="tozero", row=place, col=1)
    return figure.update_xaxes(_ticks(rounds)).update_xaxes(title_text="round", row=2, col=1)


def diagnostics(records: Records) -> go.Figure:
    """Draw every number that the method noted, each over rounds in a strip of its own."""
    names = sorted({name for row in records.rounds for name in row.get("diagnostics", {})})
    titles = [escape(name.replace("_", " "), quote=False) for name in names]
    figure = make_subplots(
        rows=len(names), shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.25 / len(names)
    )
    figure.update_layout(template=style.TEMPLATE, height=60 + 130 * len(names), showlegend=False, margin_t=24)
    figure.update_annotations(x=0, xanchor="left", font_size=12)
    for place, name in enumerate(names, 1):
        rows = [row for row in records.rounds if row.get("diagnostics", {}).get(name) is not None]
        line = _line(_column(rows, "round"), [row["diagnostics"][name] for row in rows], titles[place - 1], style.BLUE)
        figure.add_trace(line.update(hovertemplate="%{y:.4g}"), row=place, col=1)
    figure.update_xaxes(_ticks(_column(records.rounds, "round")))
    return figure.update_xaxes(title_text="round", row=len(names), col=1)


def _line(x: Sequence[float], y: Sequence[float], name: str, colour: str) -> go.Scatter:
    mode = "lines+markers" if len(x) <= DOTS else "lines"
    return go.Scatter(x=x, y=y, name=name, mode=mode, line={"color": colour, "width": 2}, marker={"size": 5})


def _area(x: Sequence[float], y: Sequence[float], kind: str, way: str) -> go.Scatter:
    name, colour = escape(kind.replace("_", " "), quote=False), style.KINDS.get(kind, style.INK)
    look = {"mode": "lines", "line": {"width": 0.5, "color": colour}, "fillcolor": colour, "stackgroup": way}
    return go.Scatter(x=x, y=y, name=name, legendgroup=kind, hovertemplate="%{y:,.3f} MB", **look)


def _sent(records: Records, way: str) -> dict[str, list[float]]:
    """Return the MB sent before the first round and after each, for every kind that was sent at all."""
    rounds = [row.get("bytes", {}).get(way, {}) for row in records.rounds]
    kinds = [*style.KINDS, *sorted({kind for sent in rounds for kind in sent} - style.KINDS.keys())]
    totals = {kind: [n / MEGA for n in accumulate((sent.get(kind, 0) for sent in rounds), initial=0)] for kind in kinds}
    return {kind: total for kind, total in totals.items() if total[-1]}


def _over_rounds(figure: go.Figure, records: Records) -> go.Figure:
    """Mark the merges with thin upright lines, on an axis of their own."""
    merges = [row for row in records.rounds if row["merged"]]
    if merges:
        figure.add_trace(_merges(_column(merges, "round"), _column(merges, "version")))
        figure.update_layout(yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True})
    return figure.update_xaxes(_ticks(_column(records.rounds, "round")))


def _merges(rounds: Sequence[int], versions: Sequence[int]) -> go.Scatter:
    top = 1 if len(rounds) <= DOTS else 0.04  # hundreds of long lines would hide the curve
    return go.Scatter(
        x=[x for round in rounds for x in (round, round, None)],
        y=[0, top, None] * len(rounds),
        customdata=[version for version in versions for _ in range(3)],
        name="merge",
        yaxis="y2",
        mode="lines",
        line={"color": style.GREY, "width": 1, "dash": "dot"},
        hovertemplate="into version %{customdata}",
    )


def _ticks(rounds: Sequence[int]) -> dict[str, Any]:
    """Keep the ticks of a short run on whole rounds."""
    return {"dtick": 1} if len(rounds) <= 12 else {}


def _column(rows: Sequence[dict[str, Any]], field: str) -> list[Any]:
    return [row[field] for row in rows]
