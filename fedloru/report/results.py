"""The results table of groups of runs: mean and standard deviation over seeds, and the cost of reaching a target."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

from fedloru.files import write_atomic
from fedloru.report import units
from fedloru.report.groups import Group, seed
from fedloru.report.records import Records, evaluations, outcome

MEGA = 1e6
NOT_REACHED = "not reached"
NOT_FINISHED = "* not finished"
FIELDS = ("group", "seed", "round", "accuracy", "loss", "up_mb", "down_mb", "seconds")


def table(groups: Sequence[Group], target: float | None = None) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the comparison, one row per group; accuracies in %, bytes in MB of 10⁶."""
    columns = dict(_columns(groups, target))
    return list(columns), [[cell(group) for cell in columns.values()] for group in groups]


def sent(run: Records, ways: Sequence[str] = ("up", "down"), rounds: int | None = None) -> float:
    """Return the MB sent in the given directions in the first ``rounds`` rounds (default: all)."""
    last = run.rounds[:rounds][-1:]
    total: int = sum(row[f"{way}_bytes_total"] for row in last for way in ways)
    return total / MEGA


def last5(run: Records) -> float | None:
    """Return the mean accuracy of the last five evaluations."""
    value: float | None = outcome(run)["last5_accuracy"]
    return value


def reached(run: Records, target: float) -> int | None:
    """Return the first round with a test accuracy of at least ``target``, or None."""
    return next((row["round"] for row in evaluations(run) if row["test_accuracy"] >= target), None)


def write_csv(path: Path, groups: Sequence[Group]) -> None:
    """Write a CSV file with one line per round of each run; MB and seconds are cumulative.

    Raises:
        OSError: the folder does not exist or is not writable.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for group in groups:
        for run in group.runs:
            writer.writerows(_lines(group.label, run))
    write_atomic(path, text.getvalue().encode())


def _lines(label: str, run: Records) -> Iterable[tuple[object, ...]]:
    seconds = 0.0
    for row in run.rounds:
        seconds += row["seconds"]
        totals = (row["up_bytes_total"] / MEGA, row["down_bytes_total"] / MEGA, round(seconds, 6))
        yield (label, seed(run), row["round"], row["test_accuracy"], row["test_loss"], *totals)


def _columns(groups: Sequence[Group], target: float | None) -> Iterable[tuple[str, Callable[[Group], str]]]:
    yield "", lambda group: group.label
    yield "seeds", _seeds
    yield "final, %", lambda group: _shares(outcome(run)["final_accuracy"] for run in group.counted)
    yield "last 5, %", lambda group: _shares(map(last5, group.counted))
    if any("final_exact_match" in outcome(run) for group in groups for run in group.runs):
        yield "exact match, %", lambda group: _shares(outcome(run).get("final_exact_match") for run in group.counted)
    for model in ("shared", "personal"):
        if any(_personal(run, model) is not None for group in groups for run in group.runs):
            yield f"{model}, local tests, %", partial(_local_tests, model)
    yield "MB up", lambda group: _mean(sent(run, ["up"]) for run in group.counted)
    yield "MB down", lambda group: _mean(sent(run, ["down"]) for run in group.counted)
    if target is not None:
        share = f"{100 * target:g} %"
        yield f"rounds to {share}", lambda group: _cost(group, target, lambda _, round: round)
        yield f"MB to {share}", lambda group: _cost(group, target, lambda r, n: sent(r, rounds=n))
    yield "seconds", lambda group: _mean(sum(row["seconds"] for row in run.rounds) for run in group.counted)


def _seeds(group: Group) -> str:
    return ", ".join(f"{seed(run)}{'' if run.summary else '*'}" for run in group.runs)


def _local_tests(model: str, group: Group) -> str:
    return _shares(_personal(run, model) for run in group.counted)


def _personal(run: Records, model: str) -> float | None:
    scores = (outcome(run)["personal"] or {}).get(model)
    return scores["mean"] if scores else None


def _shares(values: Iterable[float | None]) -> str:
    percentages = [100 * value for value in values if value is not None]
    if not percentages:
        return units.DASH
    mean = f"{fmean(percentages):.1f}"
    return f"{mean} ± {stdev(percentages):.1f}" if len(percentages) > 1 else mean


def _mean(values: Iterable[float]) -> str:
    return units.digits(fmean(values))


def _cost(group: Group, target: float, cost: Callable[[Records, int], float]) -> str:
    reaching = [(run, round) for run in group.counted if (round := reached(run, target)) is not None]
    if not reaching:
        return NOT_REACHED
    count = f" ({len(reaching)} of {len(group.counted)})" if len(reaching) < len(group.counted) else ""
    return f"{_mean(cost(run, round) for run, round in reaching)}{count}"
