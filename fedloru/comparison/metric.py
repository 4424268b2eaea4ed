"""The metric that runs are compared by: the one place that knows its column, its unit and its direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fedloru.comparison.labels import SOURCE
from fedloru.errors import ConfigError, RunFolderError, choices, quoted
from fedloru.report.records import Records, evaluations


class Metric(NamedTuple):
    """A score that evaluations measure: ``column`` of ``rounds.jsonl``, and how it is called and read."""

    column: str
    name: str
    higher_is_better: bool
    is_share: bool
    """Whether it is a fraction of 1, which tables show in % and differences in points."""

    @property
    def key(self) -> str:
        """The name in rows, in CSV files and in names of files."""
        return self.name.lower().replace(" ", "_")

    @property
    def scale(self) -> float:
        """The factor from the recorded values to the values in tables."""
        return 100.0 if self.is_share else 1.0

    def bounded(self, value: float) -> float:
        """Return the nearest possible value, for bounds of intervals."""
        return min(max(value, 0.0), 1.0) if self.is_share else value

    def unit(self, suffix: str = "%") -> str:
        """Return ``suffix`` after a comma if the metric is a share, for the heads of columns."""
        return f", {suffix}" if self.is_share else ""

    def reaches(self, value: float, target: float) -> bool:
        """Return whether ``value`` is at least as good as ``target``."""
        return value >= target if self.higher_is_better else value <= target

    def written(self, value: float) -> str:
        """Return a target as text, such as "90 %"."""
        return f"{value * self.scale:g}{' %' if self.is_share else ''}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("test_accuracy", "accuracy", higher_is_better=True, is_share=True),
        Metric("test_loss", "loss", higher_is_better=False, is_share=False),
        Metric("test_perplexity", "perplexity", higher_is_better=False, is_share=False),
        Metric("test_f1", "F1", higher_is_better=True, is_share=True),
        Metric("exact_match", "exact match", higher_is_better=True, is_share=True),
    )
}
"""The metrics by name; the first that was measured is the main one."""


def measured(runs: Sequence[Records]) -> list[Metric]:
    """Return the metrics that any of ``runs`` has measured, the main one first."""
    return [metric for metric in METRICS.values() if any(evaluations(run, metric.column) for run in runs)]


def chosen(runs: Sequence[Records], name: str | None = None) -> Metric:
    """Return the metric called ``name``, or the main metric of ``runs``.

    Raises:
        ConfigError: none of the runs has measured it.
    """
    known = {metric.name: metric for metric in measured(runs)}
    if not known:
        raise RunFolderError("there is nothing to compare: none of the runs has been evaluated yet")
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise ConfigError(
            [f"the metric {quoted(name)} was not measured by any of the runs{choices(name, known)}"], SOURCE
        )
    return known[name]


def check_target(target: float, metric: Metric) -> None:
    """Check a target value of ``metric``.

    Raises:
        ConfigError: it is out of range.
    """
    if metric.is_share and not 0 < target <= 1:
        raise ConfigError(
            [f"the target is {target:g}, expected a value of {metric.name} in (0, 1], such as 0.9"], "compare"
        )
    if not math.isfinite(target):
        raise ConfigError([f"the target is {target:g}, expected a number"], SOURCE)
