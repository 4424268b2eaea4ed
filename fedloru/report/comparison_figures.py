"""Figures that compare groups of runs: mean curves with min–max bands over seeds, and accuracy against bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import accumulate
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from fedloru.report import style
from fedloru.report.figures import DOTS
from fedloru.report.groups import Group, seed
from fedloru.report.records import Records, evaluations
from fedloru.report.results import MEGA, last5, sent

COLORS = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.INK)
DASHES = ("solid", "dash", "dot", "dashdot")
"""With more groups than colors, the colors repeat with the next dash pattern."""

WIDE = 20
"""The MB axis is logarithmic if the largest mean exceeds the smallest by more than this factor."""

Axis = Callable[[Records], list[float]]
"""A function that returns one number per round of a run."""


def over_rounds(groups: Sequence[Group]) -> go.Figure:
    """Plot test accuracy over rounds."""
    return _accuracy(groups, "round", lambda run: [row["round"] for row in run.rounds])


def over_bytes(groups: Sequence[Group]) -> go.Figure:
    """Plot test accuracy over the total bytes sent, up plus down, in MB of 10⁶ bytes."""
    return _accuracy(groups, "MB sent, up + down", _megabytes)


def over_seconds(groups: Sequence[Group]) -> go.Figure:
    """Plot test accuracy over the cumulative duration of the rounds in seconds."""
    return _accuracy(groups, "seconds", lambda run: list(accumulate(row["seconds"] for row in run.rounds)))


def pareto(groups: Sequence[Group]) -> go.Figure:
    """Plot accuracy against MB sent: small markers for runs, large ones for group means, and the Pareto front."""
    figure = _figure(groups, "MB sent, up + down", "test accuracy, mean of last five evaluations")
    means = {index: _mean(group) for index, group in enumerate(groups) if any(map(_evaluated, group.counted))}
    front = list(pareto_front(list(means.values())))
    front_line = go.Scatter(x=[x for x, _ in front], y=[y for _, y in front], mode="lines", name="Pareto front")
    front_line.update(line={"color": style.GREY, "width": 1.5, "dash": "dot", "shape": "hv"}, hoverinfo="skip")
    figure.add_trace(front_line)
    for index, mean in means.items():
        figure.add_traces(_markers(groups[index], index, mean))
    if front and max(x for x, _ in means.values()) > WIDE * min(x for x, _ in means.values()) > 0:
        figure.update_xaxes(type="log")
    return figure.update_layout(hovermode="closest")


def pareto_front(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield the Pareto-optimal points (cost, gain), in order of increasing cost."""
    best = float("-inf")
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if gain > best:
            best = gain
            yield cost, gain


def _accuracy(groups: Sequence[Group], title: str, axis: Axis) -> go.Figure:
    figure = _figure(groups, title, "test accuracy")
    for index, group in enumerate(groups):
        rounds = _evaluated_rounds(group)
        if rounds:
            figure.add_traces(_curve(group, index, rounds, axis))
    return figure.update_xaxes(rangemode="tozero")


def _curve(group: Group, index: int, rounds: Sequence[int], axis: Axis) -> list[go.Scatter]:
    """Return the mean curve of a group, preceded by its min–max band if the group has several runs."""
    positions = _values_at(rounds, [axis(run) for run in group.counted], group)
    scores = _values_at(rounds, [[row["test_accuracy"] for row in run.rounds] for run in group.counted], group)
    x, name, color = list(map(fmean, positions)), escape(group.label, quote=False), COLORS[index % len(COLORS)]
    mode = "lines+markers" if len(rounds) <= DOTS else "lines"
    mean = go.Scatter(x=x, y=list(map(fmean, scores)), name=name, legendgroup=name, mode=mode, marker={"size": 4})
    mean.update(line={"color": color, "width": 2, "dash": DASHES[index // len(COLORS) % len(DASHES)]})
    mean.update(customdata=rounds, hovertemplate="%{y:.2%}, round %{customdata}")
    if len(group.counted) == 1:
        return [mean]
    low, high = list(map(min, scores)), list(map(max, scores))
    band = go.Scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", mode="lines", line={"width": 0})
    band.update(fillcolor=color, opacity=0.18, legendgroup=name, showlegend=False, hoverinfo="skip")
    return [band, mean]


def _markers(group: Group, index: int, mean: tuple[float, float]) -> list[go.Scatter]:
    color, name = COLORS[index % len(COLORS)], escape(group.label, quote=False)
    shape = {"color": color, "symbol": ("circle", "square", "diamond", "cross")[index // len(COLORS) % 4]}
    runs = list(filter(_evaluated, group.counted))
    runs_trace = go.Scatter(
        x=[sent(run) for run in runs], y=[last5(run) for run in runs], mode="markers", legendgroup=name
    )
    runs_trace.update(
        marker={**shape, "size": 6, "opacity": 0.5}, showlegend=False, customdata=[seed(run) for run in runs]
    )
    runs_trace.update(hovertemplate=f"{name}, seed %{{customdata}}<br>%{{y:.2%}} for %{{x:,.3g}} MB<extra></extra>")
    mean_trace = go.Scatter(x=[mean[0]], y=[mean[1]], mode="markers", name=name, legendgroup=name)
    mean_trace.update(marker={**shape, "size": 14, "line": {"color": style.PAPER, "width": 1.5}})
    mean_trace.update(hovertemplate=f"{name}, mean<br>%{{y:.2%}} for %{{x:,.3g}} MB<extra></extra>")
    return [runs_trace, mean_trace]


def _figure(groups: Sequence[Group], x: str, y: str) -> go.Figure:
    longest = max(len(group.label) for group in groups)
    height = 340 + 20 * (len(groups) // max(1, 60 // (longest + 6)))  # the legend takes its space from the plot
    return style.figure(x, y, height).update_yaxes(tickformat=".1~%")


def _mean(group: Group) -> tuple[float, float]:
    runs = list(filter(_evaluated, group.counted))
    return fmean(map(sent, runs)), fmean(value for run in runs if (value := last5(run)) is not None)


def _evaluated(run: Records) -> bool:
    return last5(run) is not None


def _evaluated_rounds(group: Group) -> list[int]:
    """Return the rounds in which all counted runs of a group were evaluated."""
    rounds: list[set[Any]] = [{row["round"] for row in evaluations(run)} for run in group.counted]
    return sorted(set.intersection(*rounds))


def _values_at(rounds: Sequence[int], values: Sequence[Sequence[float]], group: Group) -> list[list[float]]:
    """Return, for each of ``rounds``, the values of all counted runs of a group."""
    by_round = [
        dict(zip((row["round"] for row in run.rounds), column, strict=True))
        for run, column in zip(group.counted, values, strict=True)
    ]
    return [[column[round] for column in by_round] for round in rounds]


def _megabytes(run: Records) -> list[float]:
    return [(row["up_bytes_total"] + row["down_bytes_total"]) / MEGA for row in run.rounds]
