"""Matplotlib figures of learning curves: means with bands, one line per label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedloru.analysis.figures import legend, panels, paper_style
from fedloru.report import style

COLOURS = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.INK)
DASHES = ("-", "--", ":", "-.")
"""With more curves than colours, the colours repeat with the next dash pattern."""
MARKS = ("o", "s", "^", "D", "v", "P", "X")

FEW = 15
"""A curve of fewer points has a marker at each."""
LEGEND = 44
"""The characters of labels that fit into a line of the legend, with 5 for each symbol."""


class Curve(NamedTuple):
    """A line through ``mean`` at ``x``, and a band from ``low`` to ``high``, or none."""

    label: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@paper_style()
def curves(shown: Sequence[tuple[str, Sequence[Curve]]], ylabel: str) -> Figure:
    """Plot curves in stacked panels, each given by the title of its x-axis and its curves; the first has a legend."""
    figure, every = panels(len(shown), 2.0)
    for axes, (xlabel, lines) in zip(every, shown, strict=True):
        for index, line in enumerate(lines):
            colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
            mark = MARKS[index % len(MARKS)] if len(line.x) < FEW else None
            axes.plot(line.x, line.mean, dash, marker=mark, color=colour, label=line.label.replace("$", r"\$"))
            if line.low:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_xlim(left=0)
        if all(float(x).is_integer() for line in lines for x in line.x):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    longest = max((len(line.label) for line in shown[0][1]), default=0)
    if longest:
        legend(every[0], max(1, LEGEND // (longest + 5)))
    return figure
