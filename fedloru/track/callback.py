"""The callback that passes a run to a tracker.

The tracker's id of the run, and the last round that it recorded, are in ``track.json`` of the run folder. So a resumed
run continues the same record, and no round is recorded twice. If the tracker fails, the run goes on without it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedloru import report
from fedloru.errors import optional, sentence
from fedloru.files import write_atomic
from fedloru.reading import UnreadableError, read_json
from fedloru.report import plotly_script
from fedloru.run.callbacks import Callback
from fedloru.run.description import echo
from fedloru.run.folder import REPORT
from fedloru.run.loop import Run
from fedloru.run.plan import title
from fedloru.settings import short
from fedloru.track.catalogue import LIBRARIES, NONE, TRACKERS
from fedloru.track.metrics import metrics, settings
from fedloru.track.tracker import Tracked, Tracker

FILE = "track.json"
BEFORE = -1
"""The last recorded round of a run that has none."""
_LOGIN = re.compile(r"://[^/@\s]+@")

log = logging.getLogger(__name__)


def tracking(table: Mapping[str, Any]) -> list[Tracking]:
    """Return the callback for the section [track] of a configuration; none if it has no tracker.

    Raises:
        MissingExtraError: the library of the tracker is not installed.
        FedloruError: a ``python:`` name cannot be resolved.
    """
    tool = str(table["tool"])
    if tool == NONE:
        return []
    if tool in LIBRARIES:
        optional(tool, extra="track", purpose=f"track.tool = '{tool}'")
    TRACKERS.find(tool)
    return [Tracking(tool, {key: value for key, value in table.items() if key != "tool"})]


class Tracking(Callback):
    """Passes the rounds of a run to the tracker ``tool``, which has the settings ``given``."""

    def __init__(self, tool: str, given: Mapping[str, Any]) -> None:
        self.tool, self.given = tool, given
        self.tracker: Tracker | None = None
        self.folder: Path | None = None
        self.recorded = BEFORE

    def on_start(self, run: Run) -> None:
        """Start or continue the record, and add the rounds that it lacks."""
        self.folder = run.folder.path if run.folder else None
        id, self.recorded = self._remembered()
        name = self.folder.resolve().name if self.folder else title(run.plan)
        tracked = Tracked(name, self.folder, id, settings(run.folder.config if run.folder else echo(run.plan)))
        with self._guarded():
            self.tracker = TRACKERS.find(self.tool)(tracked, **self.given)
            self._remember()
        for row in [*([run.start] if run.start else ()), *run.rows]:
            self.on_round(row)

    def on_round(self, row: dict[str, Any]) -> None:
        """Record the results of a round, unless that was done before the run was stopped."""
        if row["round"] <= self.recorded:
            return
        with self._guarded():
            if self.tracker:
                self.tracker.log(row["round"], metrics(row))
                self.recorded = row["round"]
                self._remember()

    def on_end(self, run: Run) -> None:
        """Record the summary and the page of a finished run, or that the run was stopped."""
        with self._guarded():
            if self.tracker and run.ended:
                self.tracker.finish(run.summary(), self._page())
            elif self.tracker:
                self.tracker.stop()

    def _page(self) -> str | None:
        if self.folder is None or not (self.folder / REPORT).is_file():
            return None
        return report.page(report.read(self.folder), plotly_script.embedded())

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Go on without the tracker if it fails."""
        try:
            yield
        except Exception as error:  # of a library, a server or a user's tracker
            self.tracker = None
            problem = _LOGIN.sub("://", sentence(error))
            log.warning("the run is no longer tracked by %s, but goes on: %s", short(self.tool), problem)

    def _remembered(self) -> tuple[str | None, int]:
        """Return this tracker's id of the run, and the last round that it recorded."""
        if self.folder is None:
            return None, BEFORE
        try:
            table = read_json(self.folder / FILE, dict)
            if table["tool"] == self.tool:
                return str(table["id"]), int(table["round"])
        except (OSError, UnreadableError, KeyError, TypeError, ValueError):
            pass  # a new record is started
        return None, BEFORE

    def _remember(self) -> None:
        if self.tracker and self.folder:
            table = {"tool": self.tool, "id": self.tracker.id, "round": self.recorded}
            write_atomic(self.folder / FILE, json.dumps(table).encode())
