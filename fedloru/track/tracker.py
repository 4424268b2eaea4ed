"""The interface of trackers: what one records of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

Scalar = str | int | float | bool


class Tracked(NamedTuple):
    """A run that starts or is resumed.

    ``id`` is the tracker's id of the run from before it was stopped, or None for a new run. ``settings`` are those of
    the configuration by their keys, such as "client.lr".
    """

    name: str
    folder: Path | None
    id: str | None
    settings: Mapping[str, Scalar]


class Tracker(Protocol):
    """Records a run; an exception in a method ends the tracking, but not the run.

    ``id`` is what the tracker needs to continue the run later.
    """

    id: str

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Record the results of a round, on disk or at the server when this returns."""

    def finish(self, summary: Mapping[str, Any], page: str | None) -> None:
        """Record the results of a run that has finished; ``page`` is its self-contained page, as HTML."""

    def stop(self) -> None:
        """End the record of a run that failed or was stopped, and that may be resumed."""
