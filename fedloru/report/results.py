"""Groups of runs as numbers: mean and standard deviation over seeds, and what it took to reach a target."""

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
    """Return the head and the rows of the comparison, a row a group; accuracies in per cent, MB of 10⁶ bytes."""
    columns = dict(_columns(groups, target))
    return list(columns), [[cell(group) for cell in columns.values()] for group in groups]


def sent(run: Records, ways: Sequence[str] = ("up", "down"), rounds: int | None = None) -> float:
    """Return the MB sent in the first so many rounds, or in all of them."""
    last = run.rounds[:rounds][-1:]
    total: int = sum(row[f"{way}_bytes_total"] for row in last for way in ways)
    return total / MEGA


def last5(run: Records) -> float | None:
    """Return the mean accuracy of the last five evaluations."""
    value: float | None = outcome(run)["last5_accuracy"]
    return value


def reached(run: Records, target: float) -> int | None:
    """Return the first round that was evaluated at ``target`` or above."""
    return next((row["round"] for row in evaluations(run) if row["test_accuracy"] >= target), None)


def write_csv(path: Path, groups: Sequence[Group]) -> None:
    """Write the rounds of all runs, a line each; MB and seconds are totals so far.

    Raises:
        OSError: the folder is missing, or cannot be written to.
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
    for model in ("shared", "personal"):
        if any(_personal(run, model) is not None for group in groups for run in group.runs):
            yield f"{model}, own tests, %", partial(_own_tests, model)
    yield "MB up", lambda group: _mean(sent(run, ["up"]) for run in group.counted)
    yield "MB down", lambda group: _mean(sent(run, ["down"]) for run in group.counted)
    if target is not None:
        share = f"{100 * target:g} %"
        yield f"rounds to {share}", lambda group: _until(group, target, lambda _, round: round)
        yield f"MB to {share}", lambda group: _until(group, target, lambda r, n: sent(r, rounds=n))
    yield "seconds", lambda group: _mean(sum(row["seconds"] for row in run.rounds) for run in group.counted)


def _seeds(group: Group) -> str:
    return ", ".join(f"{seed(run)}{'' if run.summary else '*'}" for run in group.runs)


def _own_tests(model: str, group: Group) -> str:
    return _shares(_personal(run, model) for run in group.counted)


def _personal(run: Records, model: str) -> float | None:
    found = (outcome(run)["personal"] or {}).get(model)
    return found["mean"] if found else None


def _shares(values: Iterable[float | None]) -> str:
    found = [100 * value for value in values if value is not None]
    if not found:
        return units.DASH
    return f"{fmean(found):.1f} ± {stdev(found):.1f}" if len(found) > 1 else f"{found[0]:.1f}"


def _mean(values: Iterable[float]) -> str:
    return units.digits(fmean(values))


def _until(group: Group, target: float, told: Callable[[Records, int], float]) -> str:
    found = [(run, round) for run in group.counted if (round := reached(run, target)) is not None]
    if not found:
        return NOT_REACHED
    some = f" ({len(found)} of {len(group.counted)})" if len(found) < len(group.counted) else ""
    return f"{_mean(told(run, round) for run, round in found)}{some}"
