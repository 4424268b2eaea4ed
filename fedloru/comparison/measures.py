"""The numbers that are compared, one value per run: the metric, bytes, seconds, and the cost of reaching a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

from fedloru.comparison.groups import Group
from fedloru.comparison.metric import Metric
from fedloru.report.records import Records, evaluations, personal

MEGA = 1e6
WAYS = ("up", "down")
LAST = 5
"""The maximum number of evaluations over which a score is averaged."""


class Measure(NamedTuple):
    """A number per run, or None for a run without it.

    ``key`` is its name in rows, ``title`` the head of its column, and ``scale`` the factor between the two.
    """

    key: str
    title: str
    of: Callable[[Records], float | None]
    scale: float = 1.0
    is_score: bool = False
    """Whether tables show its spread over seeds."""
    is_cost: bool = False
    """Whether it is the cost of a target, which some runs do not reach."""
    in_table: bool = True
    difference: str = ""
    """The head of the column of its paired differences; "" if these are not of interest."""

    def values(self, group: Group) -> list[float]:
        """Return the values of the counted runs that have one."""
        return [value for run in group.counted if (value := self.of(run)) is not None]


def measures(groups: Sequence[Group], metric: Metric, target: float | None = None) -> list[Measure]:
    """Return what is compared between ``groups``, in the order of the columns of a table."""
    name, scale = metric.name, metric.scale
    points = f"{name}{metric.unit('points')}"
    score, last = partial(Measure, scale=scale, is_score=True), averaged(groups, metric)
    return [
        score(metric.key, f"final {name}{metric.unit()}", partial(final, metric), difference=points),
        score(f"last5_{metric.key}", f"last {last}{metric.unit()}", partial(last5, metric), in_table=last > 1),
        *(measure for measure in _further(groups) if measure.key != metric.key),
        Measure("up_bytes", "MB up", partial(sent, ways=("up",)), 1 / MEGA),
        Measure("down_bytes", "MB down", partial(sent, ways=("down",)), 1 / MEGA),
        Measure("bytes", "MB", sent, 1 / MEGA, in_table=False, difference="MB"),
        *(_costs(metric, target) if target is not None else ()),
        Measure("seconds", "seconds", seconds),
    ]


def final(metric: Metric, run: Records) -> float | None:
    """Return the value of ``metric`` at the last evaluation."""
    return _last(run, metric.column)


def last5(metric: Metric, run: Records) -> float | None:
    """Return the mean of ``metric`` over the last evaluations, at most five."""
    measured = [row[metric.column] for row in evaluations(run, metric.column)[-LAST:]]
    return fmean(measured) if measured else None


def averaged(groups: Sequence[Group], metric: Metric) -> int:
    """Return the number of evaluations over which ``last5`` averages, at most five."""
    return min(LAST, max(len(evaluations(run, metric.column)) for group in groups for run in group.counted))


def sent(run: Records, ways: Sequence[str] = WAYS, rounds: int | None = None) -> int:
    """Return the bytes sent in the given directions in the first ``rounds`` rounds (default: all)."""
    last = run.rounds[:rounds][-1:]
    total: int = sum(row[f"{way}_bytes_total"] for row in last for way in ways)
    return total


def seconds(run: Records, rounds: int | None = None) -> float:
    """Return the duration of the first ``rounds`` rounds (default: all)."""
    total: float = sum(row["seconds"] for row in run.rounds[:rounds])
    return total


def reached(run: Records, metric: Metric, target: float) -> int | None:
    """Return the first round whose evaluation is at least as good as ``target``, or None."""
    rows = evaluations(run, metric.column)
    return next((row["round"] for row in rows if metric.reaches(row[metric.column], target)), None)


def _costs(metric: Metric, target: float) -> Iterator[Measure]:
    def cost(of: Callable[[Records, int], float], run: Records) -> float | None:
        round = reached(run, metric, target)
        return None if round is None else of(run, round)

    each: dict[str, tuple[str, float, Callable[[Records, int], float]]] = {
        "rounds": ("rounds", 1.0, lambda run, round: round),
        "bytes": ("MB", 1 / MEGA, lambda run, round: sent(run, rounds=round)),
        "seconds": ("seconds", 1.0, lambda run, round: seconds(run, round)),
    }
    for key, (unit, scale, of) in each.items():
        title = f"{unit} to {metric.written(target)}"
        in_table = key != "seconds"  # the table would be too wide
        yield Measure(
            f"{key}_to_target", title, partial(cost, of), scale, is_cost=True, in_table=in_table, difference=title
        )


def _further(groups: Sequence[Group]) -> Iterator[Measure]:
    """Yield the scores that only some runs have, for those that any run has."""
    known: dict[str, tuple[str, Callable[[Records], float | None]]] = {
        "exact_match": ("exact match, %", lambda run: _last(run, "exact_match")),
        "shared_local": ("shared, local tests, %", partial(_local, "shared")),
        "personal_local": ("personal, local tests, %", partial(_local, "personal")),
    }
    for key, (title, of) in known.items():
        measure = Measure(key, title, of, 100.0, is_score=True)
        if any(map(measure.values, groups)):
            yield measure


def _last(run: Records, column: str) -> float | None:
    rows = evaluations(run, column)
    return rows[-1][column] if rows else None


def _local(model: str, run: Records) -> float | None:
    scores: dict[str, Any] = (personal(run.rounds) or {}).get(model) or {}
    return scores.get("mean")
