"""The pictures of the page."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claim.contenders import BASELINE, CONTENDERS, RECOMMENDED, Federation
from claim.parts import Wanted
from claim.stats import Interval, interval, ratios
from claim.tables import Found, accuracies, find, share_of
from fedloru.analysis.figures import FORMATS, legend, logarithmic, panels, paper_style
from fedloru.analysis.pictures import MARKS
from fedloru.files import write_atomic
from fedloru.report import style

Points = Sequence[tuple[float, Interval]]
SHOWN = 20.0
"""The points below FedAvg's accuracy that are shown."""
LINES = {"fp32": "-", "int8": "--", "int4": ":"}
"""The line of every codec."""
LENGTH = 2.8
"""The length of a line in a legend, in font sizes, at which its pattern can be seen."""


def _looks() -> dict[str, tuple[str, str, str]]:
    """Return the colour, the mark and the line of every contender; those that differ by the codec share a colour."""
    trained = {name: str(each._replace(label="", codec="")) for name, each in CONTENDERS.items()}
    order = list(dict.fromkeys([trained[BASELINE], trained[RECOMMENDED], *trained.values()]))
    found = {}
    for name, each in CONTENDERS.items():
        n = order.index(trained[name])
        found[name] = (style.CLASSES[n % len(style.CLASSES)], MARKS[n % len(MARKS)], LINES[each.codec])
    return found


LOOKS = _looks()
"""The looks of every contender, the same in all pictures."""


@paper_style()
def against_bytes(found: Found, federations: Sequence[Federation]) -> Figure:
    """Plot accuracies against the measured share of FedAvg's bytes, one panel per federation of a task.

    FedAvg is a horizontal line with its interval.
    """
    figure, axes = panels(len(federations), 2.3 if len(federations) > 1 else 3.1)
    for each, federation in zip(axes, federations, strict=True):
        here = [wanted for wanted in found if wanted.federation == federation]
        for contender in dict.fromkeys(wanted.contender for wanted in here):
            own = [wanted for wanted in here if wanted.contender == contender]
            if contender == BASELINE:
                _level(each, interval(list(accuracies(found[own[0]]).values())))
                continue
            at = [(share_of(found, wanted), interval(list(accuracies(found[wanted]).values()))) for wanted in own]
            _line(each, contender, [(100 * share, value) for share, value in at if share is not None])
        low, high = each.get_ylim()
        whole = list(accuracies(find(found, federation, BASELINE)).values())
        lowest = interval(whole).mean - SHOWN if whole else 0.0
        each.set_ylim(max(low, lowest, 0.0), min(high, 100.5))  # intervals of few seeds may be wider
        each.set(ylabel="test accuracy, %", xlabel=f"bytes, % of FedAvg's ({federation.title})")
        logarithmic(each, "x")
    legend(axes[0], 2, length=LENGTH)
    return figure


@paper_style()
def against(found: Found, federations: Sequence[Federation], x: Callable[[Federation], float], xlabel: str) -> Figure:
    """Plot the accuracy relative to FedAvg's against a property of the federation, one line per contender."""
    figure, (axes,) = panels()
    for contender in dict.fromkeys(wanted.contender for wanted in found if wanted.contender != BASELINE):
        points = []
        for federation in federations:
            own, whole = find(found, federation, contender), find(found, federation, BASELINE)
            if ratio := ratios(accuracies(own), accuracies(whole)):
                points.append((x(federation), ratio))
        _line(axes, contender, points)
    axes.axhline(1, color=style.MUTED, linewidth=0.6)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 1 - SHOWN / 100), min(high, 1 + SHOWN / 100))  # a seed that diverged is in the table
    axes.set(xlabel=xlabel, ylabel="accuracy / FedAvg's")
    logarithmic(axes, "x")
    legend(axes, 2)
    return figure


@paper_style()
def gains(found: Mapping[Wanted, dict[int, dict[str, list[float]]]]) -> Figure:
    """Plot the gain by round for the first seed of every contender."""
    figure, (axes,) = panels()
    for wanted, results in found.items():
        values = next((result["gains"] for result in results.values() if "gains" in result), [])
        if values and wanted.contender != BASELINE:
            label = CONTENDERS[wanted.contender].label
            colour, _, line = LOOKS[wanted.contender]
            axes.plot(range(len(values)), values, line, color=colour, label=label)
    axes.set(xlabel="round", ylabel="gain ⟨D, G⟩ / ‖G‖$^2$")
    logarithmic(axes, "y")
    legend(axes, 2)
    return figure


def _level(axes: Axes, whole: Interval) -> None:
    """Draw the accuracy of FedAvg, whose bytes are the unit of the other axis."""
    colour, half = LOOKS[BASELINE][0], whole.half or 0.0
    axes.axhline(whole.mean, color=colour, label=CONTENDERS[BASELINE].label)
    axes.axhspan(whole.mean - half, whole.mean + half, color=colour, alpha=0.1, linewidth=0)


def _line(axes: Axes, contender: str, points: Points) -> None:
    if not points:
        return
    colour, mark, line = LOOKS[contender]
    points = sorted(points, key=lambda point: point[0])
    x, values = [x for x, _ in points], [value for _, value in points]
    means, halves = [value.mean for value in values], [value.half or 0.0 for value in values]
    label = CONTENDERS[contender].label.replace("published, ", "published,\n")
    axes.errorbar(x, means, halves, fmt=f"{mark}{line}", color=colour, label=label, elinewidth=0.8)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; equal data gives equal bytes."""
    data = io.BytesIO()
    with paper_style():
        figure.savefig(data, format="png", bbox_inches="tight", metadata=FORMATS[".png"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data.getvalue())
