"""Curves and CSV files begin before training, if all runs of a group were scored then."""

from __future__ import annotations

import csv
import io

from fedloru.comparison import figures, texts
from fedloru.comparison.groups import Group

from .made_up import results


def _started(groups: list[Group]) -> list[Group]:
    """Return the groups with a score of 0.1 before training."""
    totals = {f"{way}_{what}": 0 for way in ("up", "down") for what in ("bytes", "bytes_total")}
    start = {"round": 0, "version": 0, "merged": False, "seconds": 0.5, "train_loss": None, "test_loss": 2.3}
    start |= {"test_accuracy": 0.1, **totals}
    return [group._replace(runs=[run._replace(start=start) for run in group.runs]) for group in groups]


def test_curves_begin_with_the_score_before_training(groups: list[Group]) -> None:
    before, after = (figures.over_rounds(results(each)).data[-1] for each in (groups, _started(groups)))
    assert list(after.x) == [0, *before.x] and list(after.y) == [0.1, *before.y]
    assert figures.over_bytes(results(_started(groups))).data[-1].x[0] == 0


def test_csv_files_have_round_0(groups: list[Group]) -> None:
    rows = list(csv.DictReader(io.StringIO(texts.rounds_csv(results(_started(groups))))))
    first = [row for row in rows if row["round"] == "0"]
    assert len(first) == sum(len(group.runs) for group in groups)
    assert all(float(row["accuracy"]) == 0.1 and float(row["up_mb"]) == 0 for row in first)
