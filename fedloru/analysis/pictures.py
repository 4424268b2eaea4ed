"""Matplotlib figures of the theory for papers: each function takes measurements and returns a figure.

Records of spectra are JSON objects, as ``study`` yields them and ``fedloru rank`` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedloru.analysis import matrices
from fedloru.analysis.alignment import Agreement
from fedloru.analysis.figures import legend, logarithmic, panels, paper_style
from fedloru.analysis.trajectory import Curve
from fedloru.report import style
from fedloru.report.study_figures import WHO, beyond

Record = Mapping[str, Any]

COLOURS = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY)
MARKS = ("o", "s", "^", "D", "v", "P")


class Modelled(NamedTuple):
    """Spectra over n examples: ``predicted`` by the random-matrix model, and ``observed`` in a draw."""

    examples: int
    predicted: matrices.Spectrum
    observed: matrices.Spectrum


class Rate(NamedTuple):
    """Squared gradient norms (seeds, T) against rounds, one curve per seed, with the fit factor · rounds^slope."""

    label: str
    rounds: Sequence[int]
    values: Sequence[Sequence[float]]
    slope: float
    factor: float


@paper_style()
def stable_ranks(records: Sequence[Record]) -> Figure:
    """Plot stable ranks with their intervals against the number of examples in the loss: server, subsets, clients."""
    figure, (axes,) = panels()
    for who, colour in WHO.items():
        known = [r for r in records if r["subject"].startswith(who) and r["stable_rank"] is not None]
        if known:
            _intervals(axes, [(r["examples"], r["stable_rank"]) for r in known], who, colour)
    axes.set(xlabel="examples in the loss", ylabel="stable rank ‖H‖$_F^2$ / ‖H‖$_2^2$")
    logarithmic(axes, "xy")
    legend(axes, 3)
    return figure


def _intervals(axes: Axes, points: Sequence[tuple[int, Mapping[str, float]]], label: str, colour: str) -> None:
    examples, estimates = [n for n, _ in points], [estimate for _, estimate in points]
    values = [estimate["value"] for estimate in estimates]
    below = [estimate["value"] - estimate["low"] for estimate in estimates]
    above = [estimate["high"] - estimate["value"] for estimate in estimates]
    mark = MARKS[list(WHO).index(label)]
    axes.errorbar(examples, values, (below, above), fmt=mark, color=colour, label=label, elinewidth=0.8, markersize=4)


@paper_style()
def spectra(records: Sequence[Record]) -> Figure:
    """Plot the number of eigenvalues beyond each size, for either sign: the density, summed from its tail."""
    figure, (axes,) = panels()
    for record, colour in zip(records, COLOURS, strict=False):
        for sign, dash in ((1, "-"), (-1, ":")):
            sizes, counts = beyond(record, sign)
            label = f"{record['subject']}, n = {record['examples']:,}" if sign == 1 else None
            axes.step(sizes, counts, dash, where="pre", color=colour, label=label)
    axes.set(xlabel="size of an eigenvalue (dotted: negative)", ylabel="eigenvalues beyond")
    logarithmic(axes, "xy")
    axes.set_ylim(bottom=0.5)  # a quadrature node may represent less than one eigenvalue
    title = f"the first {len(COLOURS)} of {len(records)} losses" if len(records) > len(COLOURS) else None
    legend(axes, 2, title)
    return figure


@paper_style()
def alignment(found: Mapping[str, Sequence[Agreement]]) -> Figure:
    """Plot the mean cosine of client gradients, truncated to each rank and in full, with the band due to chance."""
    figure, (axes,) = panels()
    for (label, rows), colour, mark in zip(found.items(), COLOURS, MARKS, strict=False):
        truncated = {row.rank: row for row in rows if row.rank is not None}
        ranks, cosines = list(truncated), [row.cosine for row in truncated.values()]
        errors = [row.error or 0.0 for row in truncated.values()]
        axes.errorbar(ranks, cosines, errors, fmt=f"{mark}-", color=colour, label=label, elinewidth=0.8)
        axes.axhline(rows[-1].cosine, color=colour, linestyle="--", linewidth=0.8)
        band = [2 * row.chance for row in truncated.values()]
        axes.fill_between(ranks, [-width for width in band], band, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="rank (dashed: full gradients)", ylabel="mean cosine of two clients")
    logarithmic(axes, "x")
    axes.set_xticks(ticks := sorted({row.rank for rows in found.values() for row in rows if row.rank}), map(str, ticks))
    axes.axhline(0, color=style.MUTED, linewidth=0.6)
    legend(axes, 3)
    return figure


@paper_style()
def modelled(rows: Sequence[Modelled]) -> Figure:
    """Plot outliers, edge and stable rank against the number of examples: lines as predicted, dots as drawn."""
    figure, (upper, lower) = panels(2, 2.0, sharex=True)
    examples = [row.examples for row in rows]
    for sign, label in ((1, "edge, predicted"), (-1, None)):
        edge = [sign * row.predicted.edge for row in rows]
        upper.plot(examples, edge, color=style.MUTED, linestyle="--", label=label)
    predicted = [(row.examples, value) for row in rows for value in row.predicted.outliers]
    drawn = [(row.examples, value) for row in rows for value in row.observed.outliers]
    upper.plot(*_columns(predicted), "o", color=style.BLUE, markersize=5, fillstyle="none", label="outlier, predicted")
    upper.plot(*_columns(drawn), ".", color=style.VERMILLION, label="eigenvalue, drawn")
    upper.set_ylabel("eigenvalue")
    legend(upper, 2)
    lower.plot(examples, [row.predicted.stable_rank for row in rows], color=style.BLUE, label="predicted")
    lower.plot(examples, [row.observed.stable_rank for row in rows], ".", color=style.VERMILLION, label="drawn")
    lower.set(ylabel="stable rank", xlabel="examples n")
    logarithmic(lower, "xy")
    legend(lower, 2)
    return figure


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


@paper_style()
def compared(rows: Sequence[matrices.Compared]) -> Figure:
    """Plot measured stable ranks against those predicted by the random-matrix model, labelled by n."""
    figure, (axes,) = panels(1, 2.8)
    predicted, measured = [row.predicted for row in rows], [row.measured for row in rows]
    ends = [min(predicted + measured) / 1.2, max(predicted + measured) * 1.2]
    axes.plot(ends, ends, color=style.MUTED, linewidth=0.8, linestyle="--")
    axes.plot(predicted, measured, "o", color=style.BLUE)
    for row in rows:
        below: dict[str, Any] = {"xytext": (0, -9), "textcoords": "offset points", "ha": "center", "fontsize": 6}
        axes.annotate(f"{row.examples:,}", (row.predicted, row.measured), **below)
    axes.set(xlim=ends, ylim=ends, xlabel="predicted stable rank (labels: n)", ylabel="measured stable rank")
    logarithmic(axes, "xy")
    return figure


@paper_style()
def rates(found: Sequence[Rate], xlabel: str) -> Figure:
    """Plot squared gradient norms against rounds, as mean and range over seeds, with the fitted power laws."""
    figure, (axes,) = panels()
    for rate, colour, mark in zip(found, COLOURS, MARKS, strict=False):
        over_seeds = list(zip(*rate.values, strict=True))
        mean = [sum(values) / len(values) for values in over_seeds]
        low, high = [min(values) for values in over_seeds], [max(values) for values in over_seeds]
        axes.fill_between(rate.rounds, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(rate.rounds, mean, mark, color=colour, label=f"{rate.label}: {rate.slope:.2f}".replace("-", "−"))
        fitted = [rate.factor * t**rate.slope for t in rate.rounds]
        axes.plot(rate.rounds, fitted, color=colour, linewidth=0.8)
    axes.set(xlabel=xlabel, ylabel="mean ‖∇f(W$_t$)‖$^2$")
    logarithmic(axes, "xy")
    legend(axes, 2)
    return figure


@paper_style()
def ranks(found: Mapping[str, Curve], ylabel: str) -> Figure:
    """Plot ranks over rounds, one labelled line per curve."""
    figure, (axes,) = panels()
    for (label, curve), colour, mark in zip(found.items(), COLOURS, MARKS, strict=False):
        axes.plot(*_columns(curve), f"{mark}-", color=colour, label=label, markevery=max(1, len(curve) // 12))
    axes.set(xlabel="round", ylabel=ylabel, ylim=(0, None))
    legend(axes, 2)
    return figure
