"""Figures that compare groups of runs: mean curves with min–max bands over seeds, and the metric against bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from statistics import fmean

import plotly.graph_objects as go

from fedloru.comparison.curves import AXES, Axis, evaluated_rounds, values_at
from fedloru.comparison.groups import Group, seed
from fedloru.comparison.measures import MEGA, averaged, last5, sent
from fedloru.comparison.metric import Metric
from fedloru.comparison.results import Results
from fedloru.report import style
from fedloru.report.figures import DOTS, TREND
from fedloru.report.records import Records

COLORS = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.INK)
DASHES = ("solid", "dash", "dot", "dashdot")
"""With more groups than colors, the colors repeat with the next dash pattern."""

WIDE = 20
"""The MB axis is logarithmic if the largest mean exceeds the smallest by more than this factor."""


def over_rounds(results: Results) -> go.Figure:
    """Plot the metric over rounds."""
    return _curves(results, AXES["rounds"])


def over_bytes(results: Results) -> go.Figure:
    """Plot the metric over the total bytes sent, up plus down, in MB of 10⁶ bytes."""
    return _curves(results, AXES["bytes"])


def over_seconds(results: Results) -> go.Figure:
    """Plot the metric over the cumulative duration of the rounds in seconds."""
    return _curves(results, AXES["seconds"])


def pareto(results: Results) -> go.Figure:
    """Plot the metric against MB sent: small markers for runs, large ones for group means, and the Pareto front."""
    groups, metric = results.groups, results.metric
    last = averaged(groups, metric)
    evaluations = f"mean of last {last} evaluations" if last > 1 else "last evaluation"
    figure = _figure(results, AXES["bytes"].title, f"test {metric.name}, {evaluations}")
    means = {index: mean for index, group in enumerate(groups) if (mean := _mean(group, metric))}
    front = list(pareto_front(list(means.values()), higher_is_better=metric.higher_is_better))
    front_line = go.Scatter(x=[x for x, _ in front], y=[y for _, y in front], mode="lines", name="Pareto front")
    front_line.update(line={"color": style.GREY, "width": 1.5, "dash": "dot", "shape": "hv"}, hoverinfo="skip")
    figure.add_trace(front_line)
    for index, mean in means.items():
        figure.add_traces(_markers(groups[index], index, mean, metric))
    if front and max(x for x, _ in means.values()) > WIDE * min(x for x, _ in means.values()) > 0:
        figure.update_xaxes(type="log")
    return figure.update_layout(hovermode="closest")


def pareto_front(
    points: Sequence[tuple[float, float]], *, higher_is_better: bool = True
) -> Iterator[tuple[float, float]]:
    """Yield the Pareto-optimal points (cost, score), in order of increasing cost."""
    sign, best = 1 if higher_is_better else -1, float("-inf")
    for cost, score in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if sign * score > best:
            best = sign * score
            yield cost, score


def _curves(results: Results, axis: Axis) -> go.Figure:
    figure = _figure(results, axis.title, f"test {results.metric.name}")
    for index, group in enumerate(results.groups):
        if rounds := evaluated_rounds(group, results.metric):
            figure.add_traces(_curve(group, index, rounds, axis, results.metric))
    return figure.update_xaxes(rangemode="tozero")


def _curve(group: Group, index: int, rounds: Sequence[int], axis: Axis, metric: Metric) -> list[go.Scatter]:
    """Return the mean curve of a group, preceded by its min–max band if the group has several runs."""
    positions = values_at(rounds, group, axis.of)
    scores = values_at(rounds, group, lambda run: [row.get(metric.column) for row in run.measured])
    x, name, color = list(map(fmean, positions)), escape(group.label, quote=False), COLORS[index % len(COLORS)]
    mode = "markers" if len(rounds) < TREND else "lines+markers" if len(rounds) <= DOTS else "lines"
    mean = go.Scatter(x=x, y=list(map(fmean, scores)), name=name, legendgroup=name, mode=mode)
    mean.update(marker={"size": 4, "color": color})
    mean.update(line={"color": color, "width": 2, "dash": DASHES[index // len(COLORS) % len(DASHES)]})
    mean.update(customdata=rounds, hovertemplate=f"%{{y:{_format(metric)}}}, round %{{customdata}}")
    if len(group.counted) == 1:
        return [mean]
    low, high = list(map(min, scores)), list(map(max, scores))
    band = go.Scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", mode="lines", line={"width": 0})
    band.update(fillcolor=color, opacity=0.18, legendgroup=name, showlegend=False, hoverinfo="skip")
    return [band, mean]


def _markers(group: Group, index: int, mean: tuple[float, float], metric: Metric) -> list[go.Scatter]:
    color, name = COLORS[index % len(COLORS)], escape(group.label, quote=False)
    shape = {"color": color, "symbol": ("circle", "square", "diamond", "cross")[index // len(COLORS) % 4]}
    runs, score = _evaluated(group, metric), f"%{{y:{_format(metric)}}} for %{{x:,.3g}} MB<extra></extra>"
    values = [last5(metric, run) for run in runs]
    runs_trace = go.Scatter(x=[sent(run) / MEGA for run in runs], y=values, mode="markers", legendgroup=name)
    runs_trace.update(
        marker={**shape, "size": 6, "opacity": 0.5}, showlegend=False, customdata=[seed(run) for run in runs]
    )
    runs_trace.update(hovertemplate=f"{name}, seed %{{customdata}}<br>{score}")
    mean_trace = go.Scatter(x=[mean[0]], y=[mean[1]], mode="markers", name=name, legendgroup=name)
    mean_trace.update(marker={**shape, "size": 14, "line": {"color": style.PAPER, "width": 1.5}})
    mean_trace.update(hovertemplate=f"{name}, mean<br>{score}")
    return [runs_trace, mean_trace]


def _figure(results: Results, x: str, y: str) -> go.Figure:
    groups = results.groups
    longest = max(len(group.label) for group in groups)
    height = 340 + 20 * (len(groups) // max(1, 60 // (longest + 6)))  # the legend takes its space from the plot
    return style.figure(x, y, height).update_yaxes(tickformat=".1~%" if results.metric.is_share else None)


def _format(metric: Metric) -> str:
    return ".2%" if metric.is_share else ".4g"


def _mean(group: Group, metric: Metric) -> tuple[float, float] | None:
    """Return the means of MB and of the metric over the evaluated runs; None if there are none."""
    runs = _evaluated(group, metric)
    scores = [value for run in runs if (value := last5(metric, run)) is not None]
    return (fmean(map(sent, runs)) / MEGA, fmean(scores)) if scores else None


def _evaluated(group: Group, metric: Metric) -> list[Records]:
    return [run for run in group.counted if last5(metric, run) is not None]
