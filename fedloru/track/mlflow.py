"""MLflow: a run of an experiment, in a tracking server, a database or a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from fedloru.settings.types import Flag, Text
from fedloru.track.metrics import summary_metrics
from fedloru.track.tracker import Tracked

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Defaults for a server that does not answer: with those of MLflow, a round would wait for minutes."""
BATCH_METRICS, BATCH_SETTINGS = 1000, 100
"""The most entries that MLflow accepts at once."""
LONGEST = 500
"""The most characters of the value of a setting that all versions of MLflow accept."""


class _MLflow:
    def __init__(self, client: Any, id: str, page: bool) -> None:
        self.client, self.id, self.keeps_page = client, id, page

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now, entries = int(time.time() * 1000), list(metrics.items())
        for start in range(0, len(entries), BATCH_METRICS):
            batch = [Metric(name, value, now, round) for name, value in entries[start : start + BATCH_METRICS]]
            self.client.log_batch(self.id, metrics=batch)

    def finish(self, summary: Mapping[str, Any], page: str | None) -> None:
        numbers = {f"summary/{key}": value for key, value in summary_metrics(summary).items()}
        self.log(summary["rounds"], numbers)
        self.client.log_dict(self.id, dict(summary), "summary.json")
        if page is not None and self.keeps_page:
            self.client.log_text(self.id, page, "report.html")
        self.client.set_terminated(self.id, "FINISHED")

    def stop(self) -> None:
        self.client.set_terminated(self.id, "KILLED")


def mlflow(
    run: Tracked, *, uri: Text | None = None, project: Text = "fedloru", name: Text | None = None, report: Flag = True
) -> _MLflow:
    """Return a run in MLflow.

    Args:
        uri: the tracking server, database or folder, such as http://localhost:5000, without a password; by default
            that of the environment variable MLFLOW_TRACKING_URI.
        project: the experiment.
        name: the name of the run; by default that of the run folder.
        report: whether the page of the run is stored as an artifact at the end.
    """
    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    if run.id is not None:
        client.update_run(run.id, status="RUNNING")
        return _MLflow(client, run.id, report)
    created = client.create_run(_experiment(client, project), run_name=name or run.name)
    made = _MLflow(client, created.info.run_id, report)
    _log_settings(client, made.id, run.settings)
    return made


def _experiment(client: Any, project: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(project)
    try:
        return str(found.experiment_id if found else client.create_experiment(project))
    except MlflowException:  # another run may have created it in the meantime
        if (found := client.get_experiment_by_name(project)) is None:
            raise
        return str(found.experiment_id)


def _log_settings(client: Any, id: str, settings: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, str(value)[:LONGEST]) for key, value in settings.items()]
    for start in range(0, len(entries), BATCH_SETTINGS):
        client.log_batch(id, params=entries[start : start + BATCH_SETTINGS])
