"""Diagnostic figures of a run: ranks of updates and increments, and the diagnostics recorded with each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fedloru.report import style
from fedloru.report.figures import column, line, ticks
from fedloru.report.records import Records

RANKS = {
    "effective": "Effective rank (exponential of the entropy of the singular values)",
    "stable": "Stable rank (sum of the squared singular values over the largest squared singular value)",
}
"""The kinds of rank that are recorded, with their definitions."""
MATRICES = {"total": "W<sub>t</sub> − W<sub>0</sub>", "increment": "increment", "client": "client update"}
OVERLAPS = {"overlap_columns": "columns", "overlap_rows": "rows"}
BEFORE, AFTER = "loss_before_merge", "loss_after_merge"
AROUND_MERGES = "loss at merges"


def measured(records: Records) -> list[str]:
    """Return the sites whose ranks were measured, in order of decreasing rank."""
    fields = _fields("effective")
    latest = {
        site: max(values.get(field, 0.0) for field in fields)
        for row in records.rounds
        for site, values in row.get("sites", {}).items()
        if values.keys() & fields.keys()
    }
    return sorted(latest, key=lambda site: -latest[site])


def kinds(records: Records) -> list[str]:
    """Return the kinds of rank that were measured."""
    measured_fields = {field for row in records.rounds for values in row.get("sites", {}).values() for field in values}
    return [kind for kind in RANKS if measured_fields & _fields(kind).keys()]


def caption(records: Records, kind: str = "effective") -> str:
    """Return the caption of ``ranks``, which says if sites are omitted."""
    sites, limit = len(measured(records)), len(style.CLASSES)
    shown = f"for the {limit} of {sites} sites with the largest rank" if sites > limit else "at each site"
    matrices = "the total update Wₜ − W₀, increments, and updates of one client"
    return f"{RANKS[kind]} of {matrices}, {shown}. {coverage(records)}".strip()


def coverage(records: Records) -> str:
    """Return a sentence on the rounds that have diagnostics, "" if all have."""
    rounds = len(records.rounds)
    recorded = sum(bool(row.get("diagnostics") or row.get("sites")) for row in records.rounds)
    if recorded == rounds:
        return ""
    share = "so that diagnostics take about 1 % of the work; eval.diagnostics_every = 1 records every round"
    return f"Recorded in {recorded:,} of {rounds:,} rounds, {share}."


def ranks(records: Records, kind: str = "effective") -> go.Figure:
    """Plot ranks: one subplot per matrix with one line per site, or bars if every rank was measured only once."""
    sites = measured(records)[: len(style.CLASSES)]
    fields = {f: title for f, title in _fields(kind).items() if any(_series(records, site, f) for site in sites)}
    if all(len(_series(records, site, field)) < 2 for site in sites for field in fields):
        return _bars(records, sites, fields, f"{kind} rank")
    return _by_site(records, sites, fields).update_yaxes(rangemode="tozero")


def _fields(kind: str) -> dict[str, str]:
    """Return the field names of a kind of rank, with the titles of their subplots."""
    return {f"{kind}_rank_{matrix}": title for matrix, title in MATRICES.items()}


def compared(records: Records) -> bool:
    """Return whether overlaps of consecutive increments were measured."""
    return any(values.keys() & OVERLAPS.keys() for row in records.rounds for values in row.get("sites", {}).values())


def overlaps(records: Records) -> go.Figure:
    """Plot the overlap of consecutive increments' column and row spaces: 0 at chance level, 1 for equal spaces."""
    return _by_site(records, measured(records)[: len(style.CLASSES)], OVERLAPS)


def _by_site(records: Records, sites: Sequence[str], subplots: Mapping[str, str]) -> go.Figure:
    figure = make_subplots(rows=len(subplots), shared_xaxes=True, vertical_spacing=0.16 / len(subplots))
    figure.update_layout(template=style.TEMPLATE, height=120 + 190 * len(subplots))
    for place, (field, title) in enumerate(subplots.items(), 1):
        for site, color in zip(sites, style.CLASSES, strict=False):
            series = _series(records, site, field)
            trace = line([round for round, _ in series], [value for _, value in series], _short(site), color)
            trace.update(legendgroup=site, showlegend=place == 1, hovertemplate="%{y:.2f}")
            figure.add_trace(trace, row=place, col=1)
        figure.update_yaxes(title_text=title, row=place, col=1)
    figure.update_xaxes(ticks(column(records.rounds, "round")))
    return figure.update_xaxes(title_text="round", row=len(subplots), col=1)


def diagnostics(records: Records) -> go.Figure:
    """Plot every diagnostic over rounds in its own subplot; the losses before and after a merge share one."""
    subplots = _subplots(records)
    colors = f'<span style="color:{style.VERMILLION}">before</span>, <span style="color:{style.BLUE}">after</span>'
    titles = [f"{name}: {colors}" if name == AROUND_MERGES else _readable(name) for name in subplots]
    figure = make_subplots(
        rows=len(subplots), shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.25 / len(subplots)
    )
    figure.update_layout(template=style.TEMPLATE, height=60 + 130 * len(subplots), showlegend=False, margin_t=24)
    figure.update_annotations(x=0, xanchor="left", font_size=12)
    for place, names in enumerate(subplots.values(), 1):
        for name in reversed(names):
            figure.add_trace(_diagnostic(records, name), row=place, col=1)
    figure.update_xaxes(ticks(column(records.rounds, "round")))
    return figure.update_xaxes(title_text="round", row=len(subplots), col=1)


def _subplots(records: Records) -> dict[str, list[str]]:
    subplots: dict[str, list[str]] = {}
    for name in sorted({name for row in records.rounds for name in row.get("diagnostics", {})}):
        subplots.setdefault(AROUND_MERGES if name in (BEFORE, AFTER) else name, []).append(name)
    return subplots


def _diagnostic(records: Records, name: str) -> go.Scatter:
    rows = [row for row in records.rounds if row.get("diagnostics", {}).get(name) is not None]
    values = [row["diagnostics"][name] for row in rows]
    trace = line(column(rows, "round"), values, _readable(name), style.BLUE).update(hovertemplate="%{y:.4g}")
    if name == BEFORE:  # wide enough to be visible under the line of the loss after the merge
        trace.update(line={"color": style.VERMILLION, "width": 6}, marker_size=10, opacity=0.6)
    return trace


def _series(records: Records, site: str, field: str) -> list[tuple[int, float]]:
    values = [(row["round"], row.get("sites", {}).get(site, {}).get(field)) for row in records.rounds]
    return [(round, value) for round, value in values if value is not None]


def _bars(records: Records, sites: Sequence[str], fields: Mapping[str, str], axis: str) -> go.Figure:
    of = f" of {next(iter(fields.values()))}" if len(fields) == 1 else ""
    figure = style.figure(f"{axis}{of}", "", height=100 + 24 * len(sites) * len(fields))
    for (field, title), color in zip(fields.items(), (style.BLUE, style.VERMILLION, style.GREEN), strict=False):
        last = {_short(site): series[-1][1] for site in sites if (series := _series(records, site, field))}
        bar = go.Bar(x=list(last.values()), y=list(last), name=title, orientation="h", marker_color=color)
        figure.add_trace(bar.update(hovertemplate="%{y}: %{x:.2f}"))
    figure.update_layout(hovermode="closest", showlegend=len(fields) > 1, bargap=0.3)
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def _short(site: str) -> str:
    return escape(site.removesuffix(".weight"), quote=False)


def _readable(name: str) -> str:
    return escape(name.replace("_", " "), quote=False)
