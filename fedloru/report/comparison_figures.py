"""The pictures of several groups of runs: means over seeds in bands from least to greatest, and who pays what."""

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

COLOURS = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.INK)
DASHES = ("solid", "dash", "dot", "dashdot")
"""Beyond so many groups as there are colours, the colours come again with another dash."""

WIDE = 20
"""Where the most MB are more than so many times the least, their axis is logarithmic."""

Axis = Callable[[Records], list[float]]
"""A number for each round of a run."""


def over_rounds(groups: Sequence[Group]) -> go.Figure:
    """Draw the test accuracy over rounds."""
    return _accuracy(groups, "round", lambda run: [row["round"] for row in run.rounds])


def over_bytes(groups: Sequence[Group]) -> go.Figure:
    """Draw the test accuracy over all that was sent, up and down together, in MB of 10⁶ bytes."""
    return _accuracy(groups, "MB sent, up and down together", _megabytes)


def over_seconds(groups: Sequence[Group]) -> go.Figure:
    """Draw the test accuracy over the seconds that the rounds took."""
    return _accuracy(groups, "seconds", lambda run: list(accumulate(row["seconds"] for row in run.rounds)))


def pareto(groups: Sequence[Group]) -> go.Figure:
    """Draw accuracy against MB sent: a dot a run, the mean of a group larger, and the front that no mean is beyond."""
    figure = _figure(groups, "MB sent, up and down together", "test accuracy, last five evaluations")
    means = {index: _mean(group) for index, group in enumerate(groups) if any(map(_placed, group.counted))}
    front = list(pareto_front(list(means.values())))
    edge = go.Scatter(x=[x for x, _ in front], y=[y for _, y in front], mode="lines", name="Pareto front")
    edge.update(line={"color": style.GREY, "width": 1.5, "dash": "dot", "shape": "hv"}, hoverinfo="skip")
    figure.add_trace(edge)
    for index, mean in means.items():
        figure.add_traces(_dots(groups[index], index, mean))
    if front and max(x for x, _ in means.values()) > WIDE * min(x for x, _ in means.values()) > 0:
        figure.update_xaxes(type="log")
    return figure.update_layout(hovermode="closest")


def pareto_front(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield the points (cost, gain) that no other beats in both, the cheapest first."""
    best = float("-inf")
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if gain > best:
            best = gain
            yield cost, gain


def _accuracy(groups: Sequence[Group], title: str, axis: Axis) -> go.Figure:
    figure = _figure(groups, title, "test accuracy")
    for index, group in enumerate(groups):
        rounds = _common(group)
        if rounds:
            figure.add_traces(_line(group, index, rounds, axis))
    return figure.update_xaxes(rangemode="tozero")


def _line(group: Group, index: int, rounds: Sequence[int], axis: Axis) -> list[go.Scatter]:
    """Return the mean over seeds of a group, and where there are several, the band of them, under it."""
    across = _at(rounds, [axis(run) for run in group.counted], group)
    scores = _at(rounds, [[row["test_accuracy"] for row in run.rounds] for run in group.counted], group)
    x, name, colour = list(map(fmean, across)), escape(group.label, quote=False), COLOURS[index % len(COLOURS)]
    mode = "lines+markers" if len(rounds) <= DOTS else "lines"
    mean = go.Scatter(x=x, y=list(map(fmean, scores)), name=name, legendgroup=name, mode=mode, marker={"size": 4})
    mean.update(line={"color": colour, "width": 2, "dash": DASHES[index // len(COLOURS) % len(DASHES)]})
    mean.update(customdata=rounds, hovertemplate="%{y:.2%}, round %{customdata}")
    if len(group.counted) == 1:
        return [mean]
    low, high = list(map(min, scores)), list(map(max, scores))
    band = go.Scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", mode="lines", line={"width": 0})
    band.update(fillcolor=colour, opacity=0.18, legendgroup=name, showlegend=False, hoverinfo="skip")
    return [band, mean]


def _dots(group: Group, index: int, mean: tuple[float, float]) -> list[go.Scatter]:
    colour, name = COLOURS[index % len(COLOURS)], escape(group.label, quote=False)
    shape = {"color": colour, "symbol": ("circle", "square", "diamond", "cross")[index // len(COLOURS) % 4]}
    runs = list(filter(_placed, group.counted))
    each = go.Scatter(x=[sent(run) for run in runs], y=[last5(run) for run in runs], mode="markers", legendgroup=name)
    each.update(marker={**shape, "size": 6, "opacity": 0.5}, showlegend=False, customdata=[seed(run) for run in runs])
    each.update(hovertemplate=f"{name}, seed %{{customdata}}<br>%{{y:.2%}} for %{{x:,.3g}} MB<extra></extra>")
    whole = go.Scatter(x=[mean[0]], y=[mean[1]], mode="markers", name=name, legendgroup=name)
    whole.update(marker={**shape, "size": 14, "line": {"color": style.PAPER, "width": 1.5}})
    whole.update(hovertemplate=f"{name}, mean<br>%{{y:.2%}} for %{{x:,.3g}} MB<extra></extra>")
    return [each, whole]


def _figure(groups: Sequence[Group], x: str, y: str) -> go.Figure:
    longest = max(len(group.label) for group in groups)
    height = 340 + 20 * (len(groups) // max(1, 60 // (longest + 6)))  # the legend takes its lines from the picture
    return style.figure(x, y, height).update_yaxes(tickformat=".1~%")


def _mean(group: Group) -> tuple[float, float]:
    runs = list(filter(_placed, group.counted))
    return fmean(map(sent, runs)), fmean(value for run in runs if (value := last5(run)) is not None)


def _placed(run: Records) -> bool:
    return last5(run) is not None


def _common(group: Group) -> list[int]:
    """Return the rounds that all the runs of a group were evaluated in."""
    rounds: list[set[Any]] = [{row["round"] for row in evaluations(run)} for run in group.counted]
    return sorted(set.intersection(*rounds))


def _at(rounds: Sequence[int], values: Sequence[Sequence[float]], group: Group) -> list[list[float]]:
    """Return the values of all runs of a group at each of ``rounds``."""
    numbered = [
        dict(zip((row["round"] for row in run.rounds), column, strict=True))
        for run, column in zip(group.counted, values, strict=True)
    ]
    return [[column[round] for column in numbered] for round in rounds]


def _megabytes(run: Records) -> list[float]:
    return [(row["up_bytes_total"] + row["down_bytes_total"]) / MEGA for row in run.rounds]
