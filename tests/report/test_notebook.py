"""The live table of a run in a notebook."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fedloru.report import notebook
from fedloru.reported_run import ReportedRun
from tests.run.test_run import plan


class Shown:
    """Stands in for IPython, and keeps the HTML of every update by place."""

    def __init__(self) -> None:
        self.places: list[list[str]] = []

    def display(self, value: Any, *, display_id: bool) -> Any:
        assert display_id
        self.places.append(place := [value._repr_html_()])
        return SimpleNamespace(update=lambda new: place.append(new._repr_html_()))


def _pretend(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]) -> Shown:
    shown, ipython = Shown(), ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(config=config)  # type: ignore[attr-defined]
    ipython.display = shown  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    return shown


def test_a_run_in_a_notebook_updates_one_table_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _pretend(monkeypatch, {"IPKernelApp": {}})
    monkeypatch.setattr(notebook, "PAUSE", 0)
    run = ReportedRun(plan())
    list(run)
    (place,) = shown.places
    assert len(place) == 7 and place[-1] == run._repr_html_()
    rounds = re.findall(r"<tr><td>(\d+)</td>", place[-1])
    assert rounds == ["1", "2", "3", "4", "5", "6"] and '<progress value="6" max="6">' in place[-1]
    assert "test accuracy" in place[-1]


def test_updates_are_limited_in_number_but_the_last_state_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _pretend(monkeypatch, {"IPKernelApp": {}})
    monkeypatch.setattr(notebook, "PAUSE", 1e9)
    list(ReportedRun(plan()))
    (place,) = shown.places
    assert len(place) == 2 and '<progress value="6" max="6">' in place[-1]


def test_nothing_is_shown_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _pretend(monkeypatch, {"TerminalIPythonApp": {}})
    list(ReportedRun(plan(rounds=1)))
    monkeypatch.delitem(sys.modules, "IPython")
    list(ReportedRun(plan(rounds=1)))
    assert shown.places == []


def test_titles_are_escaped_and_a_run_that_has_not_begun_has_a_table() -> None:
    assert "<p>a &lt;b&gt;</p>" in notebook.table("a <b>", [], 3)
