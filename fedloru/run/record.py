"""The row of a round: one line of ``rounds.jsonl``."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fedloru import tree
from fedloru.data import size
from fedloru.engine.task import Outcome
from fedloru.evaluate import Score, evaluate, shared_model
from fedloru.method import State
from fedloru.net import Net
from fedloru.run.carrier import Personal
from fedloru.run.checkpoint import Snapshot
from fedloru.run.diagnostics import MERGE_SAMPLE, Ranks, UpdateStatistics, increment_ranks, overlaps, total_ranks
from fedloru.run.plan import Plan
from fedloru.run.sampling import tested
from fedloru.tree import Params

Row = dict[str, Any]


class Round(NamedTuple):
    """A completed round: the run before and after it, and its cohort.

    ``scores`` are the entries of the row for the evaluation of the model, {} in a round without one. ``updates`` is
    None in a round without diagnostics. ``personal`` are the scores of clients on their own test examples, if they were
    asked for.
    """

    before: Snapshot
    after: Snapshot
    cohort: list[int]
    outcome: Outcome
    lr: float
    scores: Row
    updates: UpdateStatistics | None
    personal: dict[str, dict[str, float]] | None = None


def is_evaluated(plan: Plan, round: int) -> bool:
    """Return whether the model is evaluated after ``round``."""
    return round % plan.eval_every == 0 or round == plan.rounds


def latest_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Return the scores on the test set in the last row that has any, by name; {} if none has."""
    found = ({name: value for name, value in row.items() if _is_score(name, value)} for row in reversed(rows))
    return next(filter(None, found), {})


def _is_score(name: str, value: Any) -> bool:
    return name.startswith("test_") and isinstance(value, int | float)


def scores_clients(plan: Plan, round: int, *, last: bool) -> bool:
    """Return whether clients are scored after ``round``, which may be the ``last`` one of the run, or 0."""
    every = plan.eval_clients_every or (plan.eval_every if plan.has_own_tests else None)
    return last or not round or (every is not None and round % every == 0)


def record(plan: Plan, first: State, done: Round) -> Row:
    """Return the row of a round; ``first`` is the initial state."""
    before, after = done.before, done.after
    state, spent = after.state, after.traffic - before.traffic
    merged = state.version > before.state.version
    row: Row = {
        "round": state.round,
        "version": state.version,
        "merged": merged,
        "train_loss": done.outcome.loss,
        "test_loss": None,
        "test_accuracy": None,
        "test_f1": None,
        "lr": done.lr,
        "cohort": done.cohort,
        "up_bytes": spent.total("up"),
        "down_bytes": spent.total("down"),
        "up_bytes_total": after.traffic.total("up"),
        "down_bytes_total": after.traffic.total("down"),
        "bytes": spent.table(),
        "diagnostics": dict(state.notes),
        "sites": {},
        "personal": None,
    }
    row |= done.scores
    row["personal"] = _with_perplexity(plan, done.personal)
    if done.updates is not None:
        row["sites"] = _sites(plan, first, done, done.updates)
        row["diagnostics"] |= _model_diagnostics(plan, done, done.updates, row["sites"])
    return row


def scores(score: Score) -> Row:
    """Return the entries of a row for the score of an evaluation; a metric without a value is None."""
    row: Row = {"test_loss": score.loss, "test_accuracy": score.accuracy, "test_f1": score.f1}
    row |= {f"test_{name}": value for name, value in score.metrics.items()}
    if score.missing:
        row |= {f"test_{name}": None for name in score.missing}
        row["missing"] = {name: why.reason for name, why in score.missing.items()}
    return row


def evaluation(plan: Plan, state: State) -> Row:
    """Return the scores of the shared model of ``state`` on the test set, and what ``eval_hook`` adds to them."""
    model = shared_model(plan.net, plan.method, state)
    test = plan.dataset.test
    row = scores(evaluate(plan.net, model, test, rows=tested(plan, size(test)), metrics=plan.chosen_metrics))
    if plan.net.unit == "token":
        row["test_perplexity"] = perplexity(row["test_loss"])
    return row if plan.eval_hook is None else row | plan.eval_hook(plan.net, model)


def start_row(plan: Plan, first: State, personal: Personal) -> Row:
    """Return the scores of the model before training, ``first``, and of clients, as the row of round 0."""
    sent = {f"{way}_{what}": 0 for way in ("up", "down") for what in ("bytes", "bytes_total")}
    row: Row = {"round": 0, "version": first.version, "merged": False, "train_loss": None, **sent}
    return row | evaluation(plan, first) | {"personal": _with_perplexity(plan, personal.scores)} | dict(personal.notes)


def perplexity(loss: float) -> float:
    """Return e to the power of the loss per token in nats, or the largest float if it overflows."""
    return math.exp(min(loss, math.log(sys.float_info.max)))


def _with_perplexity(plan: Plan, scores: dict[str, dict[str, float]] | None) -> dict[str, dict[str, float]] | None:
    if scores is None or plan.net.unit != "token":
        return scores
    return {name: spread | {"perplexity": perplexity(spread["loss"])} for name, spread in scores.items()}


def _model_diagnostics(
    plan: Plan, done: Round, updates: UpdateStatistics, sites: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Return the diagnostics that are a single number for the whole model."""
    before, state = done.before.state, done.after.state
    numbers: dict[str, float] = {}
    if (cosine := updates.cosine()) is not None:
        numbers["update_cosine"] = cosine
    gaps = [site["aggregation_gap"] for site in sites.values() if "aggregation_gap" in site]
    if gaps:
        numbers["aggregation_gap"] = sum(gap**2 for gap in gaps) ** 0.5
    if state.version > before.version and plan.method.view is None:
        numbers |= _merge_losses(plan, before, state, done.outcome)
    return numbers


def _merge_losses(plan: Plan, before: State, state: State, outcome: Outcome) -> dict[str, float]:
    """Return the test losses of the average before the merge and of the state after it, on the same sample."""
    mean = tree.scale(outcome.total.sum.shared, 1 / outcome.total.weight)
    if mean.keys() != before.shared.keys():
        return {}
    average = before._replace(shared=tree.cast_like(mean, before.shared))
    test = plan.dataset.test
    rows = tested(plan, size(test))
    sample = (torch.arange(size(test)) if rows is None else rows)[:MERGE_SAMPLE]
    states = {"loss_before_merge": average, "loss_after_merge": state}
    return {
        name: evaluate(plan.net, shared_model(plan.net, plan.method, s), test, rows=sample).loss
        for name, s in states.items()
    }


def _sites(plan: Plan, first: State, done: Round, updates: UpdateStatistics) -> dict[str, dict[str, float]]:
    """Return the diagnostics of every site: its gap, its ranks and its overlaps."""
    state = done.after.state
    found: dict[str, dict[str, float]] = {site.weight: {} for site in plan.net.sites}
    for weight, gap in updates.gaps().items():
        found[weight]["aggregation_gap"] = gap
    for name, by_site in _ranks(plan, first, state, updates).items():
        for weight, values in by_site.items():
            found[weight] |= {f"{kind}_rank_{name}": value for kind, value in values.items()}
    for weight, values in _overlaps(plan, done.before, state).items():
        found[weight] |= values
    return {weight: values for weight, values in found.items() if values}


def _ranks(plan: Plan, first: State, state: State, updates: UpdateStatistics) -> dict[str, Ranks]:
    increment = increment_ranks(plan.net.sites, state.increment) if _has_all_factors(plan.net, state.increment) else {}
    return {
        "increment": increment,
        "total": total_ranks(plan.net, first, state),
        "client": updates.client_ranks(),
    }


def _overlaps(plan: Plan, before: Snapshot, state: State) -> dict[str, dict[str, float]]:
    """Return the overlaps of the increment with the previous one, which the ledger and every checkpoint contain."""
    previous = before.restore_ledger(plan.net.sites, plan.codec).latest
    if _has_all_factors(plan.net, previous) and _has_all_factors(plan.net, state.increment):
        return overlaps(plan.net, previous, state.increment)
    return {}


def _has_all_factors(net: Net, increment: Params) -> bool:
    return bool(increment) and net.factors <= increment.keys()
