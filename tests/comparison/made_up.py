"""Synthetic groups of runs."""

from __future__ import annotations

from pathlib import Path

from fedloru.comparison.groups import Group, baseline
from fedloru.comparison.metric import chosen
from fedloru.comparison.results import Results
from fedloru.report import Records


def variant(run: Records, seed: int, method: str, gain: float) -> Records:
    """Return a copy of ``run`` with another seed and method, and accuracies higher by ``gain``."""
    rows = [
        row | {"test_accuracy": row["test_accuracy"] + gain if row["test_accuracy"] is not None else None}
        for row in run.rounds
    ]
    config = run.config | {"seed": seed, "method": {"name": method}}
    return run._replace(folder=Path(f"{method}-{seed}"), config=config, rounds=rows)


def results(groups: list[Group], target: float | None = None, label: str | None = None) -> Results:
    metric = chosen([run for group in groups for run in group.runs])
    return Results(groups, baseline(groups, label), metric, target)
