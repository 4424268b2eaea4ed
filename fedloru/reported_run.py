"""Runs that show their results: as a page in their folder, and as a table in a notebook."""

from __future__ import annotations

from typing import Any

from fedloru import report
from fedloru.report import notebook
from fedloru.run.callbacks import Callback
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run


class ReportedRun(Run):
    """A run that writes a page, ``report.html``, to its folder when it finishes, and shows its rounds in a notebook."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.callbacks += [_LiveTable()] if notebook.is_notebook() else []

    def finish(self, folder: RunFolder) -> None:
        """Write the results of the run, then the page."""
        super().finish(folder)
        report.write(folder.path)

    def _repr_html_(self) -> str:
        return notebook.table(repr(self), self.rows, self.plan.rounds)


class _LiveTable(Callback):
    """Shows the rounds of a run below the cell of a notebook that iterates over it."""

    def on_start(self, run: Run) -> None:
        self.run, self.display = run, notebook.Display()

    def on_round(self, row: dict[str, Any]) -> None:
        self.display.show(self.run)

    def on_end(self, run: Run) -> None:
        self.display.show(run, now=True)
