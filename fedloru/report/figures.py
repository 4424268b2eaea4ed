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
SHARES = {"test_f1": ("macro-F1", style.BLUE), "exact_match": ("exact match", style.VERMILLION)}
WIDE = 20
"""Perplexities that differ by more than this factor are drawn on a logarithmic axis."""


def accuracy(records: Records) -> go.Figure:
    """Draw the test accuracy over rounds, and where factors were merged."""
    rows = evaluations(records)
    figure = style.figure("round", "test accuracy")
    figure.add_trace(line(column(rows, "round"), column(rows, "test_accuracy"), "test accuracy", style.BLUE))
    figure.update_traces(hovertemplate="%{y:.2%}").update_yaxes(tickformat=".1~%")
    return _over_rounds(figure, records)


def perplexity(records: Records) -> go.Figure:
    """Draw the perplexity of the test tokens over rounds, and where factors were merged."""
    rows = evaluations(records, "test_perplexity")
    figure = style.figure("round", "test perplexity")
    figure.add_trace(line(column(rows, "round"), column(rows, "test_perplexity"), "test perplexity", style.BLUE))
    figure.update_traces(hovertemplate="%{y:,.3f}").update_yaxes(type="log" if _is_wide(rows) else "linear")
    return _over_rounds(figure, records)


def shares(records: Records) -> go.Figure:
    """Draw, over rounds, what else is a share of 1: macro-F1 and exact matches, and where factors were merged."""
    figure = style.figure("round", "share of 1")
    for field, (name, colour) in SHARES.items():
        if rows := evaluations(records, field):
            figure.add_trace(line(column(rows, "round"), column(rows, field), name, colour))
    figure.update_traces(hovertemplate="%{y:.2%}").update_yaxes(tickformat=".1~%")
    return _over_rounds(figure, records)


def _is_wide(rows: Sequence[dict[str, Any]]) -> bool:
    values = column(rows, "test_perplexity")
    return bool(max(values) > WIDE * min(values))


def loss(records: Records) -> go.Figure:
    """Draw the training and the test loss in nats over rounds, and where factors were merged."""
    tested = evaluations(records, "test_loss")
    figure = style.figure("round", "loss (nats)")
    for rows, part, colour in ((records.rounds, "train", style.VERMILLION), (tested, "test", style.BLUE)):
        if rows:
            figure.add_trace(line(column(rows, "round"), column(rows, f"{part}_loss"), part, colour))
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
    figure.add_trace(line(sent, column(rows, field), title, style.GREEN))
    figure.update_traces(
        customdata=column(rows, "round"),
        hovertemplate=f"%{{y:{form}}} after %{{x:,.2f}} MB<br>round %{{customdata}}<extra></extra>",
    )
    return figure.update_layout(hovermode="closest").update_xaxes(rangemode="tozero")


def bytes_by_kind(records: Records) -> go.Figure:
    """Draw what has been sent so far, by kind, down above up, in MB of 10⁶ bytes."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.1)
    figure.update_layout(template=style.TEMPLATE, height=400)
    rounds = [0, *column(records.rounds, "round")]
    shown: set[str] = set()
    for place, way in enumerate(("down", "up"), 1):
        for kind, sent in _sent(records, way).items():
            area = _area(rounds, sent, kind, way).update(showlegend=kind not in shown)
            figure.add_trace(area, row=place, col=1)
            shown.add(kind)
        figure.update_yaxes(title_text=f"MB {way}", rangemode="tozero", row=place, col=1)
    return figure.update_xaxes(ticks(rounds)).update_xaxes(title_text="round", row=2, col=1)


def personal(records: Records) -> go.Figure:
    """Draw the accuracy on test examples of the clients' own: the mean of clients, and that of their worst tenth."""
    figure = style.figure("round", "accuracy on own tests")
    for model, colour in (("shared", style.BLUE), ("personal", style.VERMILLION)):
        rows = [row for row in records.rounds if model in (row.get("personal") or {})]
        if rows:
            spreads, rounds = [row["personal"][model] for row in rows], column(rows, "round")
            figure.add_trace(line(rounds, column(spreads, "mean"), f"{model} model", colour))
            worst = line(rounds, column(spreads, "bottom_decile"), f"{model}, worst tenth", colour)
            figure.add_trace(worst.update(line={"dash": "dot", "width": 1.5}, marker={"size": 4}))
    figure.update_traces(hovertemplate="%{y:.2%}").update_yaxes(tickformat=".1~%")
    return figure.update_xaxes(ticks(column(records.rounds, "round")))


def line(x: Sequence[float | str], y: Sequence[float], name: str, colour: str) -> go.Scatter:
    """Return a line, with a dot for each of its points where they are few."""
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
        figure.add_trace(_merges(column(merges, "round"), column(merges, "version")))
        figure.update_layout(yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True})
    return figure.update_xaxes(ticks(column(records.rounds, "round")))


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


def ticks(rounds: Sequence[int]) -> dict[str, Any]:
    """Return what keeps the ticks of a short run on whole rounds."""
    return {"dtick": 1} if len(rounds) <= 12 else {}


def column(rows: Sequence[dict[str, Any]], field: str) -> list[Any]:
    """Return one field of every row."""
    return [row[field] for row in rows]
