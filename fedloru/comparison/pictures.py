"""Pictures of a comparison for papers, one column wide: the metric against rounds and against MB, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from fedloru.comparison.curves import AXES, Axis, evaluated_rounds, values_at
from fedloru.comparison.paired import half_width
from fedloru.comparison.places import check_outside, check_place
from fedloru.comparison.results import Results
from fedloru.errors import RunFolderError

if TYPE_CHECKING:
    from fedloru.analysis.curves import Curve

PLOTTED = ("rounds", "bytes")
"""What the metric is plotted against."""


def write_pictures(results: Results, place: Path) -> list[Path]:
    """Write a picture with two panels to ``place``, or into it, if it is a folder, one per panel in every format.

    Raises:
        MissingExtraError: matplotlib is not installed.
        RunFolderError: a picture would be in a run folder, or replace another file.
        OSError: the place is not writable.
    """
    from fedloru.analysis.curves import curves
    from fedloru.analysis.figures import FORMATS, save

    ylabel = f"test {results.metric.name}{results.metric.unit()}"
    panels = {name: (AXES[name].title, list(_curves(results, AXES[name]))) for name in PLOTTED}
    check_pictures(place)
    if place.suffix in FORMATS:
        return save(curves(list(panels.values()), ylabel), place.with_suffix(""), [place.suffix])
    place.mkdir(parents=True, exist_ok=True)
    stems = {name: place / stem(results, name) for name in panels}
    for path, suffix in product(stems.values(), FORMATS):
        check_place(path.with_name(path.name + suffix), suffix)
    figures = {name: curves([panel], ylabel) for name, panel in panels.items()}
    return [path for name, figure in figures.items() for path in save(figure, stems[name], list(FORMATS))]


def check_pictures(place: Path) -> None:
    """Check that pictures can be written to ``place``, a file or a folder.

    Raises:
        MissingExtraError: matplotlib is not installed.
        RunFolderError: ``place`` cannot be written to, is in a run folder, or has an unknown ending.
    """
    from fedloru.analysis.figures import FORMATS

    if place.suffix in FORMATS:
        check_place(place, place.suffix)
        return
    if place.suffix and not place.is_dir():
        raise RunFolderError(f"{place} is neither a folder nor a file that ends in .pdf, .png or .svg")
    if place.exists() and not place.is_dir():
        raise RunFolderError(f"{place} is a file: name a folder, or a file that ends in .pdf, .png or .svg")
    check_outside(place, place)


def _curves(results: Results, axis: Axis) -> Iterator[Curve]:
    """Yield the mean curve of each group, with the interval of the mean if the group has several runs."""
    from fedloru.analysis.curves import Curve

    metric = results.metric
    for group in results.groups:
        if rounds := evaluated_rounds(group, metric):
            x = [fmean(values) for values in values_at(rounds, group, axis.of)]
            scores = values_at(rounds, group, lambda run: [row.get(metric.column) for row in run.measured])
            intervals = [(fmean(values), half) for values in scores if (half := half_width(values)) is not None]
            low = [metric.scale * metric.bounded(mean - half) for mean, half in intervals]
            high = [metric.scale * metric.bounded(mean + half) for mean, half in intervals]
            yield Curve(group.label, x, [metric.scale * fmean(values) for values in scores], low, high)


def stem(results: Results, axis: str) -> str:
    """Return the name of a picture in a folder, without its ending, such as "accuracy-over-rounds"."""
    return f"{results.metric.key.replace('_', '-')}-over-{axis}"
