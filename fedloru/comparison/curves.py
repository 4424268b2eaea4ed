"""The points of learning curves: the rounds in which a group was evaluated, and the values of its runs there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from fedloru.comparison.groups import Group
from fedloru.comparison.measures import MEGA
from fedloru.comparison.metric import Metric
from fedloru.report.records import Records, curve

Column = Callable[[Records], list[Any]]
"""A function that returns one value for each row of ``Records.measured``: round 0, if it was scored, and all others."""


class Axis(NamedTuple):
    """What a metric is plotted against: the title of the axis, and its values."""

    title: str
    of: Column


AXES = {
    "rounds": Axis("round", lambda run: [row["round"] for row in run.measured]),
    "bytes": Axis(
        "MB sent, up + down",
        lambda run: [(row["up_bytes_total"] + row["down_bytes_total"]) / MEGA for row in run.measured],
    ),
    "seconds": Axis("seconds", lambda run: list(accumulate(row["seconds"] for row in run.measured))),
}


def evaluated_rounds(group: Group, metric: Metric) -> list[int]:
    """Return the rounds in which all counted runs of a group were evaluated, 0 if they were before training."""
    rounds: list[set[int]] = [{row["round"] for row in curve(run, metric.column)} for run in group.counted]
    return sorted(set.intersection(*rounds))


def values_at(rounds: Sequence[int], group: Group, column: Column) -> list[list[float]]:
    """Return, for each of ``rounds``, the values of all counted runs of a group."""
    by_round = [dict(zip((row["round"] for row in run.measured), column(run), strict=True)) for run in group.counted]
    return [[values[round] for values in by_round] for round in rounds]
