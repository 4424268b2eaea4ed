"""Callbacks follow a run, and an exception in one of them loses no round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedloru as fl
from fedloru.errors import ConfigError
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from tests.run.test_run import plan, timeless


class Follow(fl.Callback):
    def __init__(self) -> None:
        self.said: list[Any] = []

    def on_start(self, run: Run) -> None:
        self.said.append(("start", len(run.rows)))

    def on_round(self, row: dict[str, Any]) -> None:
        self.said.append(row["round"])

    def on_end(self, run: Run) -> None:
        self.said.append(("end", len(run.rows)))


def test_callbacks_and_functions_get_the_row_of_every_round() -> None:
    follow, seen = Follow(), list[dict[str, Any]]()
    rows = list(Run(plan(), callbacks=[follow, seen.append]))
    assert seen == rows
    assert follow.said == [("start", 0), 1, 2, 3, 4, 5, 6, ("end", 6)]


def test_on_end_is_called_once_results_are_written_and_also_if_the_loop_is_left(tmp_path: Path) -> None:
    class Finished(fl.Callback):
        files: list[str]

        def on_end(self, run: Run) -> None:
            assert run.folder is not None
            self.files = run.folder.missing

    finished, follow = Finished(), Follow()
    list(Run(plan(), RunFolder.create(tmp_path / "a", {}, {}), callbacks=[finished]))
    assert finished.files == ["report.html"]  # which only runs of ``fl.run`` write
    steps = iter(Run(plan(), RunFolder.create(tmp_path / "b", {}, {}), callbacks=[follow]))
    next(steps)
    steps.close()
    assert follow.said == [("start", 0), 1, ("end", 1)]


def test_an_exception_in_a_callback_ends_the_run_with_its_round_saved(tmp_path: Path) -> None:
    def fails(row: dict[str, Any]) -> None:
        if row["round"] == 3:
            raise LookupError("no such tracker")

    follow = Follow()
    folder = RunFolder.create(tmp_path / "run", {}, {})
    with pytest.raises(LookupError, match="no such tracker"):
        list(Run(plan(), folder, callbacks=[fails, follow]))
    assert follow.said[-1] == ("end", 3)
    snapshot = folder.latest("cpu")
    assert snapshot is not None and snapshot.state.round == 3
    again = RunFolder.open(tmp_path / "run")
    resumed = Run(plan(), again, again.latest("cpu"), callbacks=[follow])
    assert timeless([*resumed]) == timeless(list(Run(plan())))[3:]
    assert follow.said[-5:] == [("start", 3), 4, 5, 6, ("end", 6)]


@pytest.mark.parametrize(
    ("callbacks", "problem"),
    [
        (["tracker"], r"callbacks\[0\] is 'tracker', expected a function of a row, such as callbacks=\[print\]"),
        ([print, Follow], r"callbacks\[1\] is .* expected a function of a row"),
        (print, r"expected a list of them: callbacks=\[…\]"),
    ],
)
def test_what_is_no_callback_is_refused(callbacks: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Run(plan(), callbacks=callbacks)
