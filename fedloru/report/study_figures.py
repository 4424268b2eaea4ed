"""Figures of later analyses of a run: stable ranks and spectra of the curvature, and gradient alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from fedloru.report import names, style
from fedloru.report.figures import line
from fedloru.report.records import ALL

Record = Mapping[str, Any]

LOG = {"type": "log"}
SIZES = [digit * 10**power for power in range(8) for digit in (1, 2, 5)]
"""Tick values of axes that count examples."""

WHO = {"server": style.BLUE, "subset": style.SKY, "client": style.VERMILLION}
"""Whose loss a spectrum belongs to, with its color."""

KINDS = {"hessian": "Hessian", "ggn": "Gauss-Newton matrix"}


def by_kind(study: Record) -> dict[str, list[Record]]:
    """Return the spectra of the whole model, grouped by the name of the matrix."""
    whole = [record for record in study["records"] if record["layer"] is None]
    by_name = {name: [record for record in whole if record["curvature"] == kind] for kind, name in KINDS.items()}
    return {name: records for name, records in by_name.items() if records}


def stable_ranks(records: Sequence[Record]) -> go.Figure:
    """Plot stable ranks with their intervals against the number of examples, for the server, subsets and clients."""
    figure = style.figure("examples in the loss", "stable rank")
    for who, color in WHO.items():
        estimated = [r for r in records if r["subject"].startswith(who) and r["stable_rank"] is not None]
        if estimated:
            figure.add_trace(_intervals(estimated, who, color))
    figure.update_layout(hovermode="closest")
    return figure.update_xaxes(LOG, tickvals=SIZES, tickformat=",").update_yaxes(LOG)


def caption(study: Record) -> str:
    """Return the caption of ``stable_ranks``, with the study's notes on the model."""
    few = any(record["few"] for record in study["records"])
    hollow = ["Hollow: fewer examples than classes, so the value reflects the small sample."] * few
    bars = f"Bars: intervals with a coverage probability of at least {study['of']['level']:g}."
    return " ".join([bars, *hollow, *study["of"]["notes"]])


def _intervals(records: Sequence[Record], name: str, color: str) -> go.Scatter:
    estimates = [record["stable_rank"] for record in records]
    return go.Scatter(
        x=[record["examples"] for record in records],
        y=[estimate["value"] for estimate in estimates],
        error_y={
            "array": [estimate["high"] - estimate["value"] for estimate in estimates],
            "arrayminus": [estimate["value"] - estimate["low"] for estimate in estimates],
            "thickness": 1,
            "width": 3,
        },
        name=name,
        mode="markers",
        marker={"color": color, "size": 8, "symbol": ["circle-open" if r["few"] else "circle" for r in records]},
        customdata=[(_escaped(r["subject"]), e["low"], e["high"]) for r, e in zip(records, estimates, strict=True)],
        hovertemplate="%{customdata[0]}, %{x:,} examples: %{y:.3~g}"
        "<br>%{customdata[1]:.3~g} to %{customdata[2]:.3~g}<extra></extra>",
    )


def spectra_caption(records: Sequence[Record]) -> str:
    """Return the caption of ``spectra``, which says if losses are omitted."""
    limit = len(style.CLASSES)
    shown = f"For the first {limit} of {len(records)} losses" if len(records) > limit else "For each loss"
    return f"{shown}: the number of eigenvalues of at least a given magnitude. Solid: positive; dotted: negative."


def spectra(records: Sequence[Record]) -> go.Figure:
    """Plot the number of eigenvalues above each magnitude, by sign: the spectral density, summed from the tail."""
    figure = style.figure("magnitude of eigenvalue", "eigenvalues at least as large")
    for record, color in zip(records, style.CLASSES, strict=False):
        for sign, dash in ((1, "solid"), (-1, "dot")):
            magnitudes, counts = beyond(record, sign)
            name = f"{_escaped(record['subject'])}, {record['examples']:,}"
            line_style = {"color": color, "width": 2, "dash": dash, "shape": "vh"}
            trace = go.Scatter(x=magnitudes, y=counts, name=name, mode="lines", line=line_style, legendgroup=name)
            trace.update(showlegend=sign == 1, hovertemplate="%{y:,.3~g} at or above %{x:.3~g}")
            figure.add_trace(trace)
    figure.update_layout(hovermode="closest")
    # A quadrature node can represent less than one eigenvalue.
    return figure.update_xaxes(LOG).update_yaxes(LOG, autorangeoptions_minallowed=math.log10(0.5))


def beyond(record: Record, sign: int) -> tuple[list[float], list[float]]:
    """Return ascending magnitudes, and the number of eigenvalues of this sign that are at least as large as each."""
    density = record["density"]
    pairs = sorted((sign * x, w) for x, w in zip(density["nodes"], density["weights"], strict=True) if sign * x > 0)
    counts: list[float] = []
    total = 0.0
    for _, weight in reversed(pairs):
        total += weight * record["parameters"]
        counts.append(total)
    return [magnitude for magnitude, _ in pairs], counts[::-1]


def alignment(study: Record) -> go.Figure:
    """Plot the mean cosine between clients' gradients, truncated to each rank and in full, for all weights and each."""
    figure = style.figure("rank", "mean cosine between clients")
    agreement = study["agreement"]
    ranks = ["full" if row["rank"] is None else str(row["rank"]) for row in agreement[ALL]]
    band = [2 * row["chance"] for row in agreement[ALL]]
    edges = {"x": [*ranks, *ranks[::-1]], "y": [*band, *(-width for width in band[::-1])]}
    shading = {"fill": "toself", "fillcolor": style.GRID, "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_trace(go.Scatter(**edges, **shading, name="chance level", mode="lines"))
    short = {ALL: "all weights", **names.short(key for key in agreement if key != ALL)}
    for weight, color in zip(_curves(agreement), style.CLASSES, strict=False):
        rows = agreement[weight]
        trace = line(ranks, [row["cosine"] for row in rows], _escaped(short[weight]), color)
        trace.update(error_y={"array": [row["error"] for row in rows], "thickness": 1, "width": 3})
        full = _escaped(short[ALL] if weight == ALL else weight)
        figure.add_trace(trace.update(hovertemplate=f"%{{y:.3f}}<extra>{full}</extra>"))
    return figure.update_xaxes(type="category")


def alignment_caption(study: Record) -> str:
    """Return the caption of ``alignment``, which says if weights are omitted."""
    clients, weights, limit = len(study["clients"]), len(study["agreement"]) - 1, len(style.CLASSES) - 1
    omitted = f" Shown: the first {limit} of {weights} weights." if weights > limit else ""
    without = names.without(key for key in study["agreement"] if key != ALL)
    return (
        f"Mean over all pairs of {clients} clients, with jackknife standard errors. Gray: two standard deviations "
        f"around 0 for independent gradients, all weights together.{omitted} {without}".strip()
    )


def _curves(agreement: Mapping[str, Any]) -> list[str]:
    """Return the keys to plot: all weights together and, if there are several weights, each of them."""
    return list(agreement) if len(agreement) > 2 else [ALL]


def shares(study: Record) -> go.Figure:
    """Plot the share of each client's gradient in the span of the top eigenvectors of the server's Hessian."""
    figure = style.figure("client", "share of squared gradient norm")
    clients = [str(client["client"]) for client in study["clients"]]
    figure.add_trace(go.Bar(x=clients, y=study["eigenspace"]["shares"], marker_color=style.BLUE))
    figure.update_traces(hovertemplate="client %{x}: %{y:.1%}<extra></extra>")
    figure.update_layout(hovermode="closest", showlegend=False, bargap=0.3)
    return figure.update_yaxes(tickformat=".0%", range=[0, 1]).update_xaxes(type="category", showgrid=False)


def shares_caption(study: Record) -> str:
    """Return the caption of ``shares``, with the chance level."""
    space = study["eigenspace"]
    k, chance = len(space["eigenvalues"]), 100 * space["share_by_chance"]
    return (
        f"Share of each client's gradient in the span of the top {k} eigenvectors of the server's Hessian. "
        f"Chance level: {chance:.2g} %."
    )


def _escaped(name: str) -> str:
    return escape(name, quote=False)
