"""Weights & Biases: a run of a project, at its server or in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fedloru.settings.types import Flag, Text
from fedloru.track.metrics import summary_metrics
from fedloru.track.tracker import Tracked


class _Wandb:
    def __init__(self, run: Any, page: bool) -> None:
        self.run, self.id, self.keeps_page = run, str(run.id), page

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=round)

    def finish(self, summary: Mapping[str, Any], page: str | None) -> None:
        self.run.summary.update({f"summary/{key}": value for key, value in summary_metrics(summary).items()})
        if page is not None and self.keeps_page:
            Path(self.run.dir, "report.html").write_text(page, "utf-8")  # all files there are uploaded
        self.run.finish(0)

    def stop(self) -> None:
        self.run.finish(1)


def wandb(
    run: Tracked,
    *,
    project: Text = "fedloru",
    entity: Text | None = None,
    name: Text | None = None,
    mode: Literal["online", "offline"] | None = None,
    report: Flag = True,
) -> _Wandb:
    """Return a run in Weights & Biases.

    The key is that of `wandb login`, or of the environment variable WANDB_API_KEY. Files are in the run folder.

    Args:
        project: the project.
        entity: the user or team that owns the project; by default that of the account.
        name: the name of the run; by default that of the run folder.
        mode: online, or offline for files that `wandb sync` uploads later; by default that of the environment variable
            WANDB_MODE, or online.
        report: whether the page of the run is stored as a file at the end.
    """
    import wandb as library

    started = library.init(
        project=project,
        entity=entity,
        name=name or run.name,
        id=run.id,
        resume="allow",
        mode=mode,
        dir=os.environ.get("WANDB_DIR") or run.folder,
        config=dict(run.settings),
        # Nothing of the machine, its processes and its repositories, whose addresses may contain passwords.
        settings=library.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, save_code=False, x_disable_meta=True
        ),
    )
    return _Wandb(started, report)
