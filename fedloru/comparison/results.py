"""The results of groups of runs, as rows of plain values and as tables of texts: means and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from fedloru.comparison.groups import Group, seed
from fedloru.comparison.measures import Measure, measures
from fedloru.comparison.metric import Metric
from fedloru.comparison.paired import Difference, difference
from fedloru.report import units

NOT_REACHED = "not reached"
NOT_FINISHED = "* not finished"


class Results(NamedTuple):
    """What a comparison computes: of all ``groups``, relative to ``baseline``, which is one of them."""

    groups: Sequence[Group]
    baseline: Group
    metric: Metric
    target: float | None = None

    @property
    def measures(self) -> list[Measure]:
        """What is compared."""
        return measures(self.groups, self.metric, self.target)

    @property
    def others(self) -> list[Group]:
        """All groups but the baseline."""
        return [group for group in self.groups if group is not self.baseline]

    @property
    def unfinished(self) -> bool:
        """Whether any of the runs is not finished."""
        return not all(run.summary for group in self.groups for run in group.runs)


class Text(NamedTuple):
    """A table of texts: its head, its rows, whose first cell is a label, and an explanation."""

    head: list[str]
    rows: list[list[str]]
    caption: str = ""


def rows(results: Results) -> list[dict[str, Any]]:
    """Return one row of plain values per group: means, standard deviations, and differences from the baseline.

    Scores are as they were recorded, such as fractions of 1. A value that does not exist is None.
    """
    return [dict(_row(results, group)) for group in results.groups]


def _row(results: Results, group: Group) -> Iterator[tuple[str, Any]]:
    yield "group", group.label
    yield "seeds", [seed(run) for run in group.counted]
    yield "finished", all(run.summary for run in group.runs)
    for measure in results.measures:
        values = measure.values(group)
        yield measure.key, fmean(values) if values else None
        yield f"{measure.key}_std", stdev(values) if len(values) > 1 else None
        if measure.is_cost:
            yield f"{measure.key}_runs", len(values)
    yield "baseline", results.baseline.label
    for measure in filter(lambda measure: measure.difference, results.measures):
        found = _difference(measure, group, results.baseline)
        known = group is not results.baseline and found.mean is not None
        yield f"{measure.key}_difference", found.mean if known else None
        low, high = (known and found.interval) or (None, None)
        yield f"{measure.key}_difference_low", low
        yield f"{measure.key}_difference_high", high
        yield f"{measure.key}_p", found.p if known else None
        yield f"{measure.key}_pairs", len(found.seeds) if group is not results.baseline else None


def table(results: Results) -> Text:
    """Return the table of means and standard deviations, one row per group."""
    shown = [measure for measure in results.measures if measure.in_table]
    lines = [[group.label, _seeds(group), *(_cell(measure, group) for measure in shown)] for group in results.groups]
    caption = "Mean ± standard deviation over seeds, on the test set. 1 MB = 10⁶ bytes."
    if results.unfinished:
        caption = f"{caption} {NOT_FINISHED}."
    return Text(["", "seeds", *(measure.title for measure in shown)], lines, caption)


def differences(results: Results) -> Text | None:
    """Return the table of paired differences from the baseline, a row per other group and measure, if there are any."""
    lines = [
        [group.label, measure.difference, *_compared(measure, _difference(measure, group, results.baseline))]
        for group in results.others
        for measure in results.measures
        if measure.difference
    ]
    head = ["", "difference in", "shared seeds", "mean", "95 % interval", "p"]
    return Text(head, lines, _explained(results)) if lines else None


def _compared(measure: Measure, found: Difference) -> list[str]:
    seeds = ", ".join(map(str, found.seeds)) or "none"
    if found.mean is None:
        return [seeds, *[units.DASH] * 3]
    mean, *bounds = (_signed(measure, value) for value in (found.mean, *(found.interval or ())))
    interval = f"[{', '.join(bounds)}]" if bounds else units.DASH
    return [seeds, mean, interval, _p(found.p)]


def _explained(results: Results) -> str:
    text = f"Mean difference from {results.baseline.label} over shared seeds, with its 95 % interval (Student's t)."
    text += " p: paired t-test, two-sided, where the differences vary."
    seeds = {group.label: {*map(seed, group.counted)} for group in results.groups}
    few = [group.label for group in results.others if len(seeds[group.label] & seeds[results.baseline.label]) < 2]
    if few:
        text += f" Fewer than two shared seeds, so no interval and no test: {', '.join(few)}."
    return text


def _difference(measure: Measure, group: Group, baseline: Group) -> Difference:
    return difference(_by_seed(measure, group), _by_seed(measure, baseline))


def _by_seed(measure: Measure, group: Group) -> dict[int, float]:
    """Return the value at each seed, as the mean if several runs have the same seed."""
    values: dict[int, list[float]] = {}
    for run in group.counted:
        if (value := measure.of(run)) is not None:
            values.setdefault(seed(run), []).append(value)
    return {number: fmean(each) for number, each in values.items()}


def _seeds(group: Group) -> str:
    return ", ".join(f"{seed(run)}{'' if run.summary else '*'}" for run in group.runs)


def _cell(measure: Measure, group: Group) -> str:
    values = [measure.scale * value for value in measure.values(group)]
    if not values:
        return NOT_REACHED if measure.is_cost else units.DASH
    if measure.is_score:
        spread = f" ± {_number(measure, stdev(values))}" if len(values) > 1 else ""
        return f"{_number(measure, fmean(values))}{spread}"
    count = f" ({len(values)} of {len(group.counted)})" if len(values) < len(group.counted) else ""
    return f"{_number(measure, fmean(values))}{count}"


def _signed(measure: Measure, value: float) -> str:
    text = _number(measure, abs(measure.scale * value))
    return text if not text.strip("0.") else f"{'+' if value > 0 else '−'}{text}"


def _number(measure: Measure, value: float) -> str:
    return f"{value:.1f}" if measure.scale == 100 else units.digits(value)


def _p(value: float | None) -> str:
    return units.DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
