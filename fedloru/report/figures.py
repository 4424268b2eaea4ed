"""The figures of one run: functions from its records to plotly figures in a common style, without side effects."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fedloru.report import style, wording
from fedloru.report.records import Records, curve, outcome

MEGA = 1e6
DOTS = 60
"""Lines with at most this many points also show a marker at each point."""
TREND = 3
"""Fewer points are not connected by a line: they show no trend."""
SHARES = {"test_f1": ("macro-F1", style.BLUE), "exact_match": ("exact match", style.VERMILLION)}
WIDE = 20
"""The perplexity axis is logarithmic if the largest value exceeds the smallest by more than this factor."""


def accuracy(records: Records) -> go.Figure:
    """Plot test accuracy over rounds, with the merges marked."""
    rows = curve(records)
    figure = style.figure("round", "test accuracy")
    figure.add_trace(line(column(rows, "round"), column(rows, "test_accuracy"), "test accuracy", style.BLUE))
    figure.update_traces(hovertemplate="%{y:.2%}").update_yaxes(tickformat=".1~%")
    return _with_merges(figure, records)


def perplexity(records: Records) -> go.Figure:
    """Plot the perplexity of the test tokens over rounds, with the merges marked."""
    rows = curve(records, "test_perplexity")
    figure = style.figure("round", "test perplexity")
    figure.add_trace(line(column(rows, "round"), column(rows, "test_perplexity"), "test perplexity", style.BLUE))
    figure.update_traces(hovertemplate="%{y:,.3f}").update_yaxes(type="log" if _is_wide(rows) else "linear")
    return _with_merges(figure, records)


def shares(records: Records) -> go.Figure:
    """Plot macro-F1 and the fraction of exact matches over rounds, with the merges marked."""
    figure = style.figure("round", "score")
    for field, (name, color) in SHARES.items():
        if rows := curve(records, field):
            figure.add_trace(line(column(rows, "round"), column(rows, field), name, color))
    figure.update_traces(hovertemplate="%{y:.2%}").update_yaxes(tickformat=".1~%")
    return _with_merges(figure, records)


def _is_wide(rows: Sequence[dict[str, Any]]) -> bool:
    values = column(rows, "test_perplexity")
    return bool(max(values) > WIDE * min(values))


def loss(records: Records) -> go.Figure:
    """Plot training and test loss over rounds, with the merges marked."""
    tested = curve(records, "test_loss")
    figure = style.figure("round", loss_name(records))
    for rows, part, color in ((records.rounds, "train", style.VERMILLION), (tested, "test", style.BLUE)):
        if rows:
            figure.add_trace(line(column(rows, "round"), column(rows, f"{part}_loss"), part, color))
    figure.update_traces(hovertemplate=f"%{{y:,.4~g}}{wording.unit(outcome(records))}")
    return _with_merges(figure, records)


def accuracy_over_bytes(records: Records) -> go.Figure:
    """Plot test accuracy over the total bytes sent, up plus down, in MB of 10⁶ bytes."""
    return _over_bytes(records, "test_accuracy", "test accuracy", "%{y:.2%}").update_yaxes(tickformat=".1~%")


def loss_over_bytes(records: Records) -> go.Figure:
    """Plot test loss over the total bytes sent, up plus down, in MB of 10⁶ bytes."""
    value = f"%{{y:,.4~g}}{wording.unit(outcome(records))}"
    return _over_bytes(records, "test_loss", f"test {loss_name(records)}", value)


def loss_name(records: Records) -> str:
    """Return the name of the loss for an axis; plotly reads titles as HTML."""
    return escape(wording.loss(outcome(records)), quote=False)


def metric(records: Records, name: str) -> go.Figure:
    """Plot a further metric over rounds, with the merges marked."""
    rows, title = curve(records, f"test_{name}"), f"test {wording.metric(name)}"
    figure = style.figure("round", escape(title, quote=False))
    figure.add_trace(line(column(rows, "round"), column(rows, f"test_{name}"), escape(title, quote=False), style.BLUE))
    figure.update_traces(hovertemplate="%{y:,.4~g}")
    return _with_merges(figure, records)


def _over_bytes(records: Records, field: str, title: str, value: str) -> go.Figure:
    rows = curve(records, field)
    sent = [(row["up_bytes_total"] + row["down_bytes_total"]) / MEGA for row in rows]
    figure = style.figure("MB sent, up + down", title)
    figure.add_trace(line(sent, column(rows, field), title, style.GREEN))
    figure.update_traces(
        customdata=column(rows, "round"),
        hovertemplate=f"{value} after %{{x:,.2f}} MB<br>round %{{customdata}}<extra></extra>",
    )
    return figure.update_layout(hovermode="closest").update_xaxes(rangemode="tozero")


def bytes_by_kind(records: Records) -> go.Figure:
    """Plot cumulative bytes by kind, in MB of 10⁶ bytes: down in the upper subplot, up in the lower one."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.1)
    figure.update_layout(template=style.TEMPLATE, height=400)
    rounds = [0, *column(records.rounds, "round")]
    shown: set[str] = set()
    for place, way in enumerate(("down", "up"), 1):
        for kind, sent in _cumulative(records, way).items():
            area = _area(rounds, sent, kind, way).update(showlegend=kind not in shown)
            figure.add_trace(area, row=place, col=1)
            shown.add(kind)
        figure.update_yaxes(title_text=f"MB {way}", rangemode="tozero", row=place, col=1)
    return figure.update_xaxes(ticks(rounds)).update_xaxes(title_text="round", row=2, col=1)


def personal(records: Records) -> go.Figure:
    """Plot accuracy on the clients' local test sets: the mean over clients, and over the worst 10 % of them.

    Of a regression, which has none, it plots the loss.
    """
    if wording.is_regression(outcome(records)):
        name, fields, hover, ticks_format = loss_name(records), ("loss", "worst_loss"), ",.4~g", None
    else:
        name, fields, hover, ticks_format = "accuracy", ("mean", "bottom_decile"), ".2%", ".1~%"
    figure = style.figure("round", f"{name} on local test sets")
    for model, color in (("shared", style.BLUE), ("personal", style.VERMILLION)):
        rows = [row for row in records.rounds if model in (row.get("personal") or {})]
        if rows:
            statistics, rounds = [row["personal"][model] for row in rows], column(rows, "round")
            figure.add_trace(line(rounds, column(statistics, fields[0]), f"{model} model", color))
            worst = line(rounds, column(statistics, fields[1]), f"{model}, worst 10 %", color)
            figure.add_trace(worst.update(line={"dash": "dot", "width": 1.5}, marker={"size": 4}))
    figure.update_traces(hovertemplate=f"%{{y:{hover}}}").update_yaxes(tickformat=ticks_format)
    return figure.update_xaxes(ticks(column(records.rounds, "round")))


def line(x: Sequence[float | str], y: Sequence[float], name: str, color: str) -> go.Scatter:
    """Return a line trace, with a marker at each point if there are at most ``DOTS``; only markers below ``TREND``."""
    mode = "markers" if len(x) < TREND else "lines+markers" if len(x) <= DOTS else "lines"
    marker = {"size": 9 if mode == "markers" else 5, "color": color}
    return go.Scatter(x=x, y=y, name=name, mode=mode, line={"color": color, "width": 2}, marker=marker)


def _area(x: Sequence[float], y: Sequence[float], kind: str, way: str) -> go.Scatter:
    name, color = escape(kind.replace("_", " "), quote=False), style.KINDS.get(kind, style.INK)
    options = {"mode": "lines", "line": {"width": 0.5, "color": color}, "fillcolor": color, "stackgroup": way}
    return go.Scatter(x=x, y=y, name=name, legendgroup=kind, hovertemplate="%{y:,.3f} MB", **options)


def _cumulative(records: Records, way: str) -> dict[str, list[float]]:
    """Return, for each kind with any bytes, the cumulative MB sent: 0 at the start, then one value per round."""
    rounds = [row.get("bytes", {}).get(way, {}) for row in records.rounds]
    kinds = [*style.KINDS, *sorted({kind for sent in rounds for kind in sent} - style.KINDS.keys())]
    totals = {kind: [n / MEGA for n in accumulate((sent.get(kind, 0) for sent in rounds), initial=0)] for kind in kinds}
    return {kind: total for kind, total in totals.items() if total[-1]}


def _with_merges(figure: go.Figure, records: Records) -> go.Figure:
    """Mark the merges with thin vertical lines, on a separate hidden axis."""
    merges = [row for row in records.rounds if row["merged"]]
    if merges:
        figure.add_trace(_merges(column(merges, "round"), column(merges, "version")))
        figure.update_layout(yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True})
    return figure.update_xaxes(ticks(column(records.rounds, "round")))


def _merges(rounds: Sequence[int], versions: Sequence[int]) -> go.Scatter:
    top = 1 if len(rounds) <= DOTS else 0.04  # hundreds of full-height lines would hide the curve
    return go.Scatter(
        x=[x for round in rounds for x in (round, round, None)],
        y=[0, top, None] * len(rounds),
        customdata=[version for version in versions for _ in range(3)],
        name="merge",
        yaxis="y2",
        mode="lines",
        line={"color": style.GREY, "width": 1, "dash": "dot"},
        opacity=0.6,
        hovertemplate="version %{customdata}",
    )


def ticks(rounds: Sequence[int]) -> dict[str, Any]:
    """Return axis settings that keep the ticks of a short run at integer rounds."""
    return {"dtick": 1} if len(rounds) <= 12 else {}


def column(rows: Sequence[dict[str, Any]], field: str) -> list[Any]:
    """Return one field of every row."""
    return [row[field] for row in rows]
