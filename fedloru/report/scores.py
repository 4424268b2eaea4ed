"""What is known of a score by its name: whether it is a fraction of 1, and whether its lowest value is the best."""

from __future__ import annotations

from collections.abc import Sequence

from fedloru.report.records import Records

SHARES = frozenset({"accuracy", "balanced_accuracy", "exact_match", "f1"})
"""Scores that are fractions of 1, which tables show in % and differences in points."""
ERRORS = frozenset({"loss", "perplexity", "mse", "rmse", "mae"})
"""Scores whose lowest value is the best, unless ``eval.best`` says otherwise; of others, it is the highest."""


def higher_is_better(name: str, runs: Sequence[Records]) -> bool:
    """Return whether the highest value of a score is the best: as the first run says whose ``eval.best`` names it."""
    declared = [best[0] for run in runs if (best := best_of(run)) and best[1] == name]
    return declared[0] == "highest" if declared else name not in ERRORS


def best_of(run: Records) -> tuple[str, str] | None:
    """Return the order and the score of ``eval.best``, such as ("highest", "auc"); None if the run does not have it."""
    section = run.config.get("eval", {})
    words = str(section.get("best", "")).split() if isinstance(section, dict) else []
    return (words[0], words[1]) if len(words) == 2 else None
