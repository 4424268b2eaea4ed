"""The metric that runs are compared by: its column, its unit, its direction, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fedloru.comparison.labels import SOURCE
from fedloru.errors import ConfigError, RunFolderError, choices, quoted
from fedloru.report import wording
from fedloru.report.records import Records, evaluations, outcome
from fedloru.report.scores import SHARES, best_of, higher_is_better
from fedloru.schema import metric_names

DEFAULT_BEST = "lowest loss"
"""The default of ``eval.best``, with which a run does not choose a metric."""


class Metric(NamedTuple):
    """A score that evaluations measure: its ``key`` in rows and files, its name in texts, and how it is read."""

    key: str
    name: str
    higher_is_better: bool
    is_share: bool
    """Whether it is a fraction of 1, which tables show in % and differences in points."""

    @property
    def column(self) -> str:
        """The field of ``rounds.jsonl``."""
        return self.key if self.key == "exact_match" else f"test_{self.key}"

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


def chosen(runs: Sequence[Records], key: str | None = None) -> Metric:
    """Return the metric ``key``, or the main metric of ``runs``.

    The main one is that of ``eval.best``, if a run sets it, or the accuracy, or the first further metric, or the loss.

    Raises:
        ConfigError: none of the runs has measured the metric.
        RunFolderError: none has been evaluated.
    """
    known = {metric.key: metric for metric in measured(runs)}
    if not known:
        raise RunFolderError("there is nothing to compare: none of the runs has been evaluated yet")
    if key is None:
        selected = [best[1] for run in runs if (best := best_of(run)) and " ".join(best) != DEFAULT_BEST]
        return known[next((name for name in selected if name in known), next(iter(known)))]
    if key not in known:
        raise ConfigError(
            [f"the metric {quoted(key)} was not measured by any of the runs{choices(key, known)}"], SOURCE
        )
    return known[key]


def measured(runs: Sequence[Records]) -> Iterator[Metric]:
    """Yield the metrics that any of ``runs`` has measured: accuracy, further metrics, the loss, and those of texts."""
    further = metric_names(row for run in runs for row in run.rounds)
    for key in dict.fromkeys(["accuracy", *further, "loss", "perplexity", "f1", "exact_match"]):
        metric = Metric(key, _name(key, runs), higher_is_better(key, runs), key in SHARES)
        if any(evaluations(run, metric.column) for run in runs):
            yield metric


def check_target(target: float, metric: Metric) -> None:
    """Check a target value of ``metric``.

    Raises:
        ConfigError: it is out of range.
    """
    if metric.is_share and not 0 < target <= 1:
        problem = f"expected a value of {metric.name} in (0, 1], such as 0.9"
        raise ConfigError([f"the target is {target:g}, {problem}"], SOURCE)
    if not math.isfinite(target):
        raise ConfigError([f"the target is {target:g}, expected a number"], SOURCE)


def _name(key: str, runs: Sequence[Records]) -> str:
    return wording.loss(outcome(runs[0])) if key == "loss" else wording.metric(key)
