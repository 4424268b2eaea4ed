"""Checks of the options of ``compare`` before its runs are trained, as far as their configurations tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedloru import config as configs
from fedloru import metrics
from fedloru.cli.app import COMMAND_LINE
from fedloru.cli.comparison import splits
from fedloru.comparison.groups import grouped
from fedloru.comparison.labels import of_method
from fedloru.comparison.metric import check_target, chosen
from fedloru.config import Config
from fedloru.config.plan import split
from fedloru.errors import ConfigError, choices, quoted
from fedloru.report.records import FIELDS, Records


def check_options(
    planned: Sequence[Config], baseline: str | None, metric: str | None, target: float | None, names: Sequence[str]
) -> None:
    """Check the options of a comparison of ``planned`` runs.

    The settings in a label may depend on the model, so of a label only the beginning, its method, is checked.

    Raises:
        FedloruError: no group can have such a label, no run measures the metric, the target is out of range, or the
            data cannot be loaded.
    """
    _check_labels(planned, baseline, names)
    if metric is not None or target is not None:
        row = _scores(planned)
        found = chosen([Records(Path(), configs.dump(each), {}, [row], {}) for each in planned], metric)
        if target is not None:
            check_target(target, found)


def _check_labels(planned: Sequence[Config], baseline: str | None, names: Sequence[str]) -> None:
    groups = grouped(Records(Path(), configs.dump(each), {}, [], {}) for each in planned)
    methods = tuple(name for group in groups for name in of_method(group.settings))
    known = dict.fromkeys([*(group.label for group in groups), *methods])
    renamed = {entry: splits(entry) for entry in names}
    for entry, found in renamed.items():
        if not any(old.startswith(methods) for old, _ in found):
            old = found[-1][0]
            problem = f"--name is {quoted(entry)}, but {quoted(old)} is neither a label nor a method of the runs"
            raise ConfigError([f"{problem}{choices(old, known)}"], COMMAND_LINE)
    new = tuple(new for found in renamed.values() for _, new in found)
    if baseline is not None and not baseline.startswith((*methods, *new)):
        problem = f"the baseline {quoted(baseline)} is not a group of runs"
        raise ConfigError([f"{problem}{choices(baseline, known)}"], COMMAND_LINE)


def _scores(planned: Sequence[Config]) -> dict[str, Any]:
    """Return a row with the scores that evaluations of the runs may have."""
    row: dict[str, Any] = dict.fromkeys(FIELDS, 0.0)
    if split(planned[0])[0].task == "regression":
        row |= {"test_accuracy": None} | {f"test_{name}": 0.0 for name in metrics.FOR_REGRESSION}
    else:
        row["test_f1"] = 0.0
    if planned[0].data.source == "text":
        row |= {"test_perplexity": 1.0, "exact_match": 0.0}
    asked = [name for each in planned for name in metrics.named(each.eval.metrics or ())]
    return row | {f"test_{name}": 0.0 for name in asked}
