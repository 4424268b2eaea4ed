"""Diagnostics that are one number per round for the whole model: figures, a table of few rounds, and sentences.

A line needs ``TREND`` rounds. Fewer are a table, and numbers that do not change are a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from fedloru.report import style, units, wording
from fedloru.report.figures import TREND, line, loss_name, ticks
from fedloru.report.records import Records, outcome
from fedloru.report.terms import TERMS

ZERO = 1e-12
"""The largest magnitude of numbers that are 0 in exact arithmetic, as sums of products in float64 have it."""
RELATIVE = 1e-9
"""The largest spread, relative to the largest magnitude, of numbers that are constant."""

BEFORE, AFTER = "loss_before_merge", "loss_after_merge"
AROUND_MERGES = "loss at merges"

Series = Mapping[int, float]
"""Values by round."""


def coverage(records: Records) -> str:
    """Return a sentence on the rounds that have diagnostics, "" if all have."""
    rounds = len(records.rounds)
    recorded = sum(bool(row.get("diagnostics") or row.get("sites")) for row in records.rounds)
    if recorded == rounds:
        return ""
    share = "so that diagnostics take about 1 % of the work; eval.diagnostics_every = 1 records every round"
    return f"Recorded in {recorded:,} of {rounds:,} rounds, {share}."


def measured(records: Records) -> dict[str, Series]:
    """Return every diagnostic that was recorded, by name."""
    found: dict[str, dict[int, float]] = {}
    for row in records.rounds:
        for name, value in (row.get("diagnostics") or {}).items():
            if value is not None:
                found.setdefault(name, {})[row["round"]] = value
    return dict(sorted(found.items()))


def constants(all: Mapping[str, Series]) -> dict[str, str]:
    """Return a sentence for each diagnostic that has the same value in several rounds, or is 0, up to rounding."""
    return {name: said for name, series in all.items() if (said := _constant(readable(name), list(series.values())))}


def _constant(name: str, values: Sequence[float]) -> str:
    largest, name = max(map(abs, values)), f"{name[:1].upper()}{name[1:]}"
    rounds = "in the measured round" if len(values) == 1 else f"in all {len(values):,} measured rounds"
    if largest == 0:
        return f"{name}: 0 {rounds}."
    if largest < ZERO:
        return f"{name}: 0, exact to rounding, {rounds} (at most {largest:.0e})."
    if len(values) >= TREND and max(values) - min(values) <= RELATIVE * largest:
        return f"{name}: {values[0]:.4g} {rounds}, to rounding."
    return ""


def trends(all: Mapping[str, Series]) -> dict[str, dict[str, Series]]:
    """Return the diagnostics that have enough values for a line, by title; losses around merges share a figure."""
    found: dict[str, dict[str, Series]] = {}
    for name, series in all.items():
        if len(series) >= TREND:
            found.setdefault(AROUND_MERGES if name in (BEFORE, AFTER) else readable(name), {})[name] = series
    return found


def table(all: Mapping[str, Series]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of diagnostics, one row each, one column per round."""
    rounds = sorted({at for series in all.values() for at in series})
    rows = [[readable(name), *(_cell(series.get(at)) for at in rounds)] for name, series in all.items()]
    return ["", *(f"round {at:,}" for at in rounds)], rows


def figure(records: Records, series: Mapping[str, Series]) -> go.Figure:
    """Plot diagnostics over rounds; the losses before and after merges have a legend."""
    losses = BEFORE in series or AFTER in series
    unit = wording.unit(outcome(records)) if losses else ""
    plot = style.figure("round", loss_name(records) if losses else "", height=240)
    for name, values in sorted(series.items(), key=lambda item: item[0] != BEFORE):
        color = style.VERMILLION if name == BEFORE else style.BLUE
        trace = line(list(values), list(values.values()), escape(readable(name), quote=False), color)
        if name == BEFORE:  # wide enough to be visible under the line of the loss after the merge
            trace.update(line={"width": 6}, marker_size=10, opacity=0.6)
        plot.add_trace(trace.update(hovertemplate=f"%{{y:.4~g}}{unit}"))
    rounds = sorted({at for values in series.values() for at in values})
    return plot.update_xaxes(ticks(range(rounds[0], rounds[-1] + 1))).update_layout(showlegend=len(series) > 1)


def caption(title: str) -> str:
    """Return what a diagnostic means, "" if it is one of a method of the user."""
    return TERMS.get(title, "")


def readable(name: str) -> str:
    """Return the name of a diagnostic in words."""
    return name.replace("_", " ")


def _cell(value: float | None) -> str:
    return units.DASH if value is None else f"{value:.4g}"
