"""Measurements at each site over rounds: ranks of updates and increments, and overlaps of consecutive increments."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fedloru.report import names, style, units
from fedloru.report.diagnostics import coverage
from fedloru.report.figures import TREND, column, line, ticks
from fedloru.report.records import Records

RANKS = ("effective", "stable")
"""The kinds of rank that are recorded."""
MATRICES = {"total": "Wₜ − W₀", "increment": "increment", "client": "client update"}
OVERLAPS = {"overlap_columns": "columns", "overlap_rows": "rows"}


def measured(records: Records) -> list[str]:
    """Return the sites whose ranks were measured, in order of decreasing rank."""
    fields = _rank_fields("effective")
    latest = {
        site: max(values.get(field, 0.0) for field in fields)
        for row in records.rounds
        for site, values in row.get("sites", {}).items()
        if values.keys() & fields.keys()
    }
    return sorted(latest, key=lambda site: -latest[site])


def kinds(records: Records) -> list[str]:
    """Return the kinds of rank that were measured."""
    return [kind for kind in RANKS if fields(records, _rank_fields(kind))]


def ranks(records: Records, kind: str) -> dict[str, str]:
    """Return the fields of a kind of rank that were measured, each with the name of its matrix."""
    return fields(records, _rank_fields(kind))


def overlaps(records: Records) -> dict[str, str]:
    """Return the fields of the overlaps of consecutive increments that were measured, each with its name."""
    return fields(records, OVERLAPS)


def fields(records: Records, of: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of ``of`` that were measured at any site."""
    found = {field for row in records.rounds for values in row.get("sites", {}).values() for field in values}
    return {field: title for field, title in of.items() if field in found}


def is_trend(records: Records, of: Mapping[str, str]) -> bool:
    """Return whether any field of ``of`` was measured in enough rounds for a line."""
    return any(len(_series(records, site, field)) >= TREND for site in measured(records) for field in of)


def caption(records: Records, what: str) -> str:
    """Return the caption of ``figure``: what is shown, for which sites and in which rounds."""
    sites, limit = measured(records), len(style.CLASSES)
    shown = f"for the {limit} of {len(sites)} sites with the largest rank" if len(sites) > limit else "at each site"
    return " ".join(filter(None, (f"{what}, {shown}.", names.without(sites), coverage(records))))


def figure(records: Records, of: Mapping[str, str]) -> go.Figure:
    """Plot the fields of ``of`` over rounds: one subplot per field with one line per site."""
    plot = make_subplots(rows=len(of), shared_xaxes=True, vertical_spacing=0.16 / len(of))
    plot.update_layout(template=style.TEMPLATE, height=120 + 190 * len(of), hovermode="closest")
    shown, short = measured(records)[: len(style.CLASSES)], names.short(measured(records))
    for place, (field, title) in enumerate(of.items(), 1):
        for site, color in zip(shown, style.CLASSES, strict=False):
            series = _series(records, site, field)
            trace = line([at for at, _ in series], [value for _, value in series], escape(short[site], False), color)
            full = escape(site, quote=False)
            hover = f"{full}<br>{title}, round %{{x}}: %{{y:.2f}}<extra></extra>"
            trace.update(legendgroup=site, showlegend=place == 1, hovertemplate=hover)
            plot.add_trace(trace, row=place, col=1)
        plot.update_yaxes(title_text=title, row=place, col=1)
    plot.update_xaxes(ticks(column(records.rounds, "round")))
    return plot.update_xaxes(title_text="round", row=len(of), col=1)


def table(records: Records, of: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of the fields of ``of`` in each measured round, one row per site."""
    sites = measured(records)
    short = names.short(sites)
    found = {(site, field): dict(_series(records, site, field)) for site in sites for field in of}
    columns = [(field, at) for field in of for at in sorted({at for site in sites for at in found[site, field]})]
    head = ["site", *(f"{of[field]}, round {at:,}" for field, at in columns)]
    return head, [[short[site], *(_cell(found[site, field].get(at)) for field, at in columns)] for site in sites]


def _cell(value: float | None) -> str:
    return units.DASH if value is None else f"{value:.2f}"


def _rank_fields(kind: str) -> dict[str, str]:
    return {f"{kind}_rank_{matrix}": title for matrix, title in MATRICES.items()}


def _series(records: Records, site: str, field: str) -> list[tuple[int, float]]:
    values = [(row["round"], row.get("sites", {}).get(site, {}).get(field)) for row in records.rounds]
    return [(at, value) for at, value in values if value is not None]
