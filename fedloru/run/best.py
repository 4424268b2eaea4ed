"""The best evaluation of a run, and when a run ends: after its last round, or once its score no longer improves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from fedloru.errors import ConfigError, counted, quoted
from fedloru.run.plan import Plan
from fedloru.settings import one_of

Row = dict[str, Any]


class Best(NamedTuple):
    """The best evaluation: its round, its score, and the number of later evaluations."""

    round: int
    score: float
    later: int


def metric(plan: Plan) -> str:
    """Return the name of the score by which rounds are compared."""
    return plan.eval_best.split()[1]


def best(plan: Plan, rows: Iterable[Row], *, min_delta: float = 0.0) -> Best | None:
    """Return the best evaluation in ``rows``, the first of equal ones; None if no row has the score of ``eval.best``.

    A better score differs from the best one before by more than ``min_delta``.
    """
    sign = 1.0 if plan.eval_best.startswith("highest") else -1.0
    found: Best | None = None
    for row in rows:
        score = _score(row, metric(plan))
        if score is None:
            continue
        if found is None or sign * (score - found.score) > min_delta:
            found = Best(row["round"], score, 0)
        else:
            found = found._replace(later=found.later + 1)
    return found


def ending(plan: Plan, rows: Iterable[Row]) -> str | None:
    """Return why a run with these ``rows``, the evaluation before training included, has ended; None if it has not."""
    evaluated = list(rows)
    if plan.patience is not None:
        found = best(plan, evaluated, min_delta=plan.min_delta)
        if found is not None and found.later >= plan.patience:
            times = counted(found.later, "evaluation")
            return f"{metric(plan)} has not improved in {times} since round {found.round}"
    return f"all {plan.rounds} rounds are trained" if evaluated and evaluated[-1]["round"] >= plan.rounds else None


def check_metric(plan: Plan, start: Row) -> None:
    """Check that evaluations have the score of ``eval.best``, if it is used; ``start`` is the first of them.

    Raises:
        ConfigError: they do not have it.
    """
    if (plan.keep_best or plan.patience) and _score(start, metric(plan)) is None:
        names = [name.removeprefix("test_") for name in start if name.startswith("test_")]
        known = [name for name in names if _score(start, name) is not None]
        raise ConfigError(
            [f"eval.best is {quoted(plan.eval_best)}, but an evaluation has no such score: use {one_of(known)}"]
        )


def _score(row: Row, name: str) -> float | None:
    """Return a score on the test set, or another number, in a row."""
    value = row.get(f"test_{name}", row.get(name))
    return float(value) if isinstance(value, int | float) and value == value else None
