"""TensorBoard: event files in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedloru.errors import ConfigError
from fedloru.settings.types import Text
from fedloru.track.metrics import summary_metrics
from fedloru.track.tracker import Tracked


class _TensorBoard:
    def __init__(self, folder: Path, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.id, self.settings = str(folder), dict(run.settings)
        self.writer = SummaryWriter(self.id)
        if run.id is None:
            table = "\n".join(f"| {key} | {value} |" for key, value in self.settings.items())
            self.writer.add_text("settings", f"| setting | value |\n|---|---|\n{table}")
            self.writer.flush()

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, round)
        self.writer.flush()

    def finish(self, summary: Mapping[str, Any], page: str | None) -> None:
        from torch.utils.tensorboard.summary import hparams

        numbers = {f"summary/{key}": value for key, value in summary_metrics(summary).items()}
        for record in hparams(self.settings, numbers):
            self.writer._get_file_writer().add_summary(record)
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, summary["rounds"])
        self.writer.add_text("summary", f"```json\n{json.dumps(summary, indent=2, default=str)}\n```")
        self.writer.close()

    def stop(self) -> None:
        self.writer.close()


def tensorboard(run: Tracked, *, dir: Text | None = None) -> _TensorBoard:
    """Return event files for TensorBoard.

    Args:
        dir: the folder that gets a folder of event files for each run; by default they are in the run folder.

    Raises:
        ConfigError: there is neither ``dir`` nor a run folder.
    """
    if dir is None and run.folder is None:
        raise ConfigError(["track.dir is missing: a run without a folder needs it"])
    if run.folder is None:
        return _TensorBoard(Path(str(dir)), run)
    return _TensorBoard(run.folder / "tensorboard" if dir is None else Path(dir) / run.name, run)
