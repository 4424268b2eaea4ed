"""The pictures of what was studied of a run afterwards: ranks of curvature, spectra, and agreement of gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from fedloru.report import style
from fedloru.report.figures import line
from fedloru.report.records import ALL

Record = Mapping[str, Any]

LOG = {"type": "log"}
SIZES = [digit * 10**power for power in range(8) for digit in (1, 2, 5)]
"""Numbers of examples that an axis names."""

WHO = {"server": style.BLUE, "subset": style.SKY, "client": style.VERMILLION}
"""Whose loss a spectrum belongs to, and its colour."""

KINDS = {"hessian": "Hessian", "ggn": "Gauss-Newton matrix"}


def by_kind(study: Record) -> dict[str, list[Record]]:
    """Return the spectra of the whole model by the name of the matrix they are of."""
    whole = [record for record in study["records"] if record["layer"] is None]
    found = {name: [record for record in whole if record["curvature"] == kind] for kind, name in KINDS.items()}
    return {name: records for name, records in found.items() if records}


def stable_ranks(records: Sequence[Record]) -> go.Figure:
    """Draw stable ranks with their intervals against the number of examples: server, subsets, clients."""
    figure = style.figure("examples in the loss", "stable rank")
    for who, colour in WHO.items():
        known = [r for r in records if r["subject"].startswith(who) and r["stable_rank"] is not None]
        if known:
            figure.add_trace(_intervals(known, who, colour))
    figure.update_layout(hovermode="closest")
    return figure.update_xaxes(LOG, tickvals=SIZES, tickformat=",").update_yaxes(LOG)


def caption(study: Record) -> str:
    """Return how to read ``stable_ranks``, and what was noted of the model."""
    few = any(record["few"] for record in study["records"])
    hollow = ["Hollow: fewer examples than classes, so that it shows how little was seen."] * few
    level = f"Bars: intervals that hold with probability {study['of']['level']:g} or more."
    return " ".join([level, *hollow, *study["of"]["notes"]])


def _intervals(records: Sequence[Record], name: str, colour: str) -> go.Scatter:
    found = [record["stable_rank"] for record in records]
    return go.Scatter(
        x=[record["examples"] for record in records],
        y=[estimate["value"] for estimate in found],
        error_y={
            "array": [estimate["high"] - estimate["value"] for estimate in found],
            "arrayminus": [estimate["value"] - estimate["low"] for estimate in found],
            "thickness": 1,
            "width": 3,
        },
        name=name,
        mode="markers",
        marker={"color": colour, "size": 8, "symbol": ["circle-open" if r["few"] else "circle" for r in records]},
        customdata=[(_said(r["subject"]), e["low"], e["high"]) for r, e in zip(records, found, strict=True)],
        hovertemplate="%{customdata[0]}, %{x:,} examples: %{y:.3~g}"
        "<br>%{customdata[1]:.3~g} to %{customdata[2]:.3~g}<extra></extra>",
    )


def spectra_caption(records: Sequence[Record]) -> str:
    """Return what ``spectra`` draws, and what it leaves out."""
    most = len(style.CLASSES)
    shown = f"Of the first {most} of {len(records)} losses" if len(records) > most else "Of each loss"
    return f"{shown}: how many eigenvalues are larger than a size; dotted: negative ones."


def spectra(records: Sequence[Record]) -> go.Figure:
    """Draw how many eigenvalues lie beyond each size, of either sign: the density, summed from its tail."""
    figure = style.figure("size of an eigenvalue", "eigenvalues beyond")
    for record, colour in zip(records, style.CLASSES, strict=False):
        for sign, dash in ((1, "solid"), (-1, "dot")):
            sizes, counts = beyond(record, sign)
            name = f"{_said(record['subject'])}, {record['examples']:,}"
            look = {"color": colour, "width": 2, "dash": dash, "shape": "vh"}
            drawn = go.Scatter(x=sizes, y=counts, name=name, mode="lines", line=look, legendgroup=name)
            drawn.update(showlegend=sign == 1, hovertemplate="%{y:,.3~g} beyond %{x:.3~g}")
            figure.add_trace(drawn)
    figure.update_layout(hovermode="closest")
    # A node of a quadrature may stand for less than one eigenvalue.
    return figure.update_xaxes(LOG).update_yaxes(LOG, autorangeoptions_minallowed=math.log10(0.5))


def beyond(record: Record, sign: int) -> tuple[list[float], list[float]]:
    """Return sizes, ascending, and how many eigenvalues of this sign are as large or larger."""
    density = record["density"]
    pairs = sorted((sign * x, w) for x, w in zip(density["nodes"], density["weights"], strict=True) if sign * x > 0)
    counts: list[float] = []
    total = 0.0
    for _, weight in reversed(pairs):
        total += weight * record["parameters"]
        counts.append(total)
    return [size for size, _ in pairs], counts[::-1]


def alignment(study: Record) -> go.Figure:
    """Draw the mean cosine of clients' gradients cut to each rank, and whole, over all weights and at each."""
    figure = style.figure("rank", "mean cosine of two clients")
    agreement = study["agreement"]
    ranks = ["whole" if row["rank"] is None else str(row["rank"]) for row in agreement[ALL]]
    band = [2 * row["chance"] for row in agreement[ALL]]
    edges = {"x": [*ranks, *ranks[::-1]], "y": [*band, *(-width for width in band[::-1])]}
    shade = {"fill": "toself", "fillcolor": style.GRID, "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_trace(go.Scatter(**edges, **shade, name="by chance", mode="lines"))
    for weight, colour in zip(_drawn(agreement), style.CLASSES, strict=False):
        rows = agreement[weight]
        drawn = line(ranks, [row["cosine"] for row in rows], _weight(weight), colour)
        drawn.update(error_y={"array": [row["error"] for row in rows], "thickness": 1, "width": 3})
        figure.add_trace(drawn.update(hovertemplate="%{y:.3f}"))
    return figure.update_xaxes(type="category")


def alignment_caption(study: Record) -> str:
    """Return how to read ``alignment``, and what it leaves out."""
    clients, weights, most = len(study["clients"]), len(study["agreement"]) - 1, len(style.CLASSES) - 1
    cut = f" Drawn: the first {most} of {weights} weights." if weights > most else ""
    return (
        f"Over all pairs of {clients} clients, with jackknife errors; grey: two standard deviations of what chance "
        f"allows over all weights.{cut}"
    )


def _drawn(agreement: Mapping[str, Any]) -> list[str]:
    """Return what has a line of its own: all weights together, and each where there are several."""
    return list(agreement) if len(agreement) > 2 else [ALL]


def _weight(name: str) -> str:
    return "all weights" if name == ALL else _said(name.removesuffix(".weight"))


def shares(study: Record) -> go.Figure:
    """Draw the share of each client's gradient in the span of the top eigenvectors of the server's Hessian."""
    figure = style.figure("client", "share of its gradient")
    clients = [str(client["client"]) for client in study["clients"]]
    figure.add_trace(go.Bar(x=clients, y=study["eigenspace"]["shares"], marker_color=style.BLUE))
    figure.update_traces(hovertemplate="client %{x}: %{y:.1%}<extra></extra>")
    figure.update_layout(hovermode="closest", showlegend=False, bargap=0.3)
    return figure.update_yaxes(tickformat=".0%", range=[0, 1]).update_xaxes(type="category", showgrid=False)


def shares_caption(study: Record) -> str:
    """Return what ``shares`` draws, and what chance would give."""
    space = study["eigenspace"]
    k, chance = len(space["eigenvalues"]), 100 * space["share_by_chance"]
    return f"In the span of the {k} top eigenvectors of the server's Hessian; by chance {chance:.2g} %."


def _said(name: str) -> str:
    return escape(name, quote=False)
