"""The pictures of what happened inside a run: the ranks of what it learned, and the numbers noted with each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fedloru.report import style
from fedloru.report.figures import column, line, ticks
from fedloru.report.records import Records

RANKS = {
    "effective": "the effective rank, the exponential of the entropy of the singular values,",
    "stable": "the stable rank, the squares of all singular values over that of the largest,",
}
"""The kinds of rank that are noted, and what they are."""
STRIPS = {"total": "W<sub>t</sub> − W<sub>0</sub>", "increment": "increment", "client": "one client"}
OVERLAPS = {"overlap_columns": "columns", "overlap_rows": "rows"}
BEFORE, AFTER = "loss_before_merge", "loss_after_merge"
AROUND_MERGES = "loss around a merge"


def measured(records: Records) -> list[str]:
    """Return the sites whose ranks were measured, the largest rank first."""
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
    known = {field for row in records.rounds for values in row.get("sites", {}).values() for field in values}
    return [kind for kind in RANKS if known & _fields(kind).keys()]


def caption(records: Records, kind: str = "effective") -> str:
    """Return what ``ranks`` draws, and what it leaves out."""
    sites, most = len(measured(records)), len(style.CLASSES)
    shown = f"The {most} of {sites} sites of the largest rank" if sites > most else "Each site"
    of = "of all that was learned, of each increment, and of what one client of a round changed"
    return f"{shown}: {RANKS[kind]} {of}."


def ranks(records: Records, kind: str = "effective") -> go.Figure:
    """Draw ranks, a line a site in a strip for each matrix; bars if all were measured only once."""
    sites = measured(records)[: len(style.CLASSES)]
    fields = {f: title for f, title in _fields(kind).items() if any(_series(records, site, f) for site in sites)}
    if all(len(_series(records, site, field)) < 2 for site in sites for field in fields):
        return _bars(records, sites, fields, f"{kind} rank")
    return _by_site(records, sites, fields).update_yaxes(rangemode="tozero")


def _fields(kind: str) -> dict[str, str]:
    """Return the names under which a kind of rank is noted, and the titles of their strips."""
    return {f"{kind}_rank_{what}": title for what, title in STRIPS.items()}


def compared(records: Records) -> bool:
    """Say whether increments were compared with those before them."""
    return any(values.keys() & OVERLAPS.keys() for row in records.rounds for values in row.get("sites", {}).values())


def overlaps(records: Records) -> go.Figure:
    """Draw how far the spaces of an increment are those of the one before: 0 by chance, 1 for equal ones."""
    return _by_site(records, measured(records)[: len(style.CLASSES)], OVERLAPS)


def _by_site(records: Records, sites: Sequence[str], strips: Mapping[str, str]) -> go.Figure:
    figure = make_subplots(rows=len(strips), shared_xaxes=True, vertical_spacing=0.16 / len(strips))
    figure.update_layout(template=style.TEMPLATE, height=120 + 190 * len(strips))
    for place, (field, title) in enumerate(strips.items(), 1):
        for site, colour in zip(sites, style.CLASSES, strict=False):
            found = _series(records, site, field)
            trace = line([round for round, _ in found], [value for _, value in found], _short(site), colour)
            trace.update(legendgroup=site, showlegend=place == 1, hovertemplate="%{y:.2f}")
            figure.add_trace(trace, row=place, col=1)
        figure.update_yaxes(title_text=title, row=place, col=1)
    figure.update_xaxes(ticks(column(records.rounds, "round")))
    return figure.update_xaxes(title_text="round", row=len(strips), col=1)


def diagnostics(records: Records) -> go.Figure:
    """Draw every number noted, each over rounds in a strip of its own; the losses around a merge share one."""
    strips = _strips(records)
    colours = f'<span style="color:{style.VERMILLION}">before</span>, <span style="color:{style.BLUE}">after</span>'
    titles = [f"{name}: {colours}" if name == AROUND_MERGES else _words(name) for name in strips]
    figure = make_subplots(
        rows=len(strips), shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.25 / len(strips)
    )
    figure.update_layout(template=style.TEMPLATE, height=60 + 130 * len(strips), showlegend=False, margin_t=24)
    figure.update_annotations(x=0, xanchor="left", font_size=12)
    for place, names in enumerate(strips.values(), 1):
        for name in reversed(names):
            figure.add_trace(_noted(records, name), row=place, col=1)
    figure.update_xaxes(ticks(column(records.rounds, "round")))
    return figure.update_xaxes(title_text="round", row=len(strips), col=1)


def _strips(records: Records) -> dict[str, list[str]]:
    strips: dict[str, list[str]] = {}
    for name in sorted({name for row in records.rounds for name in row.get("diagnostics", {})}):
        strips.setdefault(AROUND_MERGES if name in (BEFORE, AFTER) else name, []).append(name)
    return strips


def _noted(records: Records, name: str) -> go.Scatter:
    rows = [row for row in records.rounds if row.get("diagnostics", {}).get(name) is not None]
    values = [row["diagnostics"][name] for row in rows]
    drawn = line(column(rows, "round"), values, _words(name), style.BLUE).update(hovertemplate="%{y:.4g}")
    if name == BEFORE:  # drawn wide, so that it can be seen under the line of what comes after
        drawn.update(line={"color": style.VERMILLION, "width": 6}, marker_size=10, opacity=0.6)
    return drawn


def _series(records: Records, site: str, field: str) -> list[tuple[int, float]]:
    found = [(row["round"], row.get("sites", {}).get(site, {}).get(field)) for row in records.rounds]
    return [(round, value) for round, value in found if value is not None]


def _bars(records: Records, sites: Sequence[str], fields: Mapping[str, str], axis: str) -> go.Figure:
    of = f" of {next(iter(fields.values()))}" if len(fields) == 1 else ""
    figure = style.figure(f"{axis}{of}", "", height=100 + 24 * len(sites) * len(fields))
    for (field, title), colour in zip(fields.items(), (style.BLUE, style.VERMILLION, style.GREEN), strict=False):
        last = {_short(site): found[-1][1] for site in sites if (found := _series(records, site, field))}
        bar = go.Bar(x=list(last.values()), y=list(last), name=title, orientation="h", marker_color=colour)
        figure.add_trace(bar.update(hovertemplate="%{y}: %{x:.2f}"))
    figure.update_layout(hovermode="closest", showlegend=len(fields) > 1, bargap=0.3)
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def _short(site: str) -> str:
    return escape(site.removesuffix(".weight"), quote=False)


def _words(name: str) -> str:
    return escape(name.replace("_", " "), quote=False)
