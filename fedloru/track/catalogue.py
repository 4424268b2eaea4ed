"""All trackers, one line each."""

from __future__ import annotations

from collections.abc import Callable

from fedloru.settings import Table
from fedloru.track.mlflow import mlflow
from fedloru.track.tensorboard import tensorboard
from fedloru.track.tracker import Tracked, Tracker
from fedloru.track.wandb import wandb


def none(run: Tracked) -> Tracker:
    """No tracker."""
    raise AssertionError("a run without a tracker is not tracked")


NONE = "none"
TRACKERS: Table[Callable[..., Tracker]] = Table(
    "tracker", {NONE: none, "tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}
)
"""The trackers by name; a ``python:`` name refers to a function from a ``Tracked`` and settings to a ``Tracker``."""

LIBRARIES = ("tensorboard", "mlflow", "wandb")
"""The trackers that need a library, which has their name."""
