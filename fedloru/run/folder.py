"""The run folder: configuration, partition, one row per round, checkpoints, and the results of the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w

from fedloru.data import arrays_file
from fedloru.errors import RunFolderError
from fedloru.files import remove, rename, write_atomic
from fedloru.lowrank import Increment
from fedloru.method import State
from fedloru.reading import UnreadableError, read_toml
from fedloru.run import checkpoint, increments, lock, origin, row_files
from fedloru.run import environment as environments
from fedloru.run.checkpoint import Snapshot
from fedloru.run.environment import Environment
from fedloru.tree import Params

CONFIG, PARTITION = "config.toml", "partition.json"
SUMMARY, REPORT, MODEL = "summary.json", "report.html", "model.safetensors"
RESULTS = (SUMMARY, REPORT, MODEL)
"""The files of a finished run. The summary marks it as finished, so it is written last and removed first."""
BEST, BEST_MODEL = "best", "best.safetensors"
"""The folder of the states after the best evaluations, and the file of the best model of a finished run."""
INCOMPLETE_CONFIG = ".config.toml.new"
"""The configuration while the folder is being created; it is renamed when all other files exist."""
INCREMENTS = "increments"
"""The folder of the merged increments."""

log = logging.getLogger(__name__)


class RunFolder:
    """A folder that a run writes to; its contents remain consistent if the run is killed."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config
        self._known = checkpoint.rounds(self.checkpoints)

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: dict[str, Any],
        partition: dict[str, Any],
        hashes: Mapping[str, str] | None = None,
        imported: Increment | None = None,
        environment: Environment | None = None,
        rows: Params | None = None,
    ) -> RunFolder:
        """Create the folder, and write everything known before training; if interrupted, it can be called again.

        ``imported`` is an increment that was merged into the model before the run, ``environment`` that of the run,
        and ``rows`` the arrays of the partition.

        Raises:
            RunFolderError: the path already exists.
        """
        path = Path(path)
        _raise_if_taken(path)
        path.mkdir(parents=True, exist_ok=True)
        with lock.alone(path):
            _raise_if_taken(path)  # another process may have created it in the meantime
            write_atomic(path / INCOMPLETE_CONFIG, tomli_w.dumps(config).encode())
            (path / "checkpoint").mkdir(exist_ok=True)
            origin.save(path, config, hashes or {})
            if environment is not None:
                environments.save(path / "checkpoint", environment)
            if rows:
                write_atomic(arrays_file(path / PARTITION), safetensors.torch.save(rows))
            write_atomic(path / PARTITION, json.dumps(partition).encode())
            write_atomic(path / row_files.ROUNDS, b"")
            if imported is not None:
                increments.save(path / INCREMENTS, 0, imported)
            rename(path / INCOMPLETE_CONFIG, path / CONFIG)
        return cls(path, config)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run folder.

        Raises:
            RunFolderError: it is not a run folder, or its configuration cannot be read.
        """
        path = Path(path)
        try:
            config = read_toml(path / CONFIG)
        except FileNotFoundError as error:
            if (path / INCOMPLETE_CONFIG).is_file():
                raise RunFolderError(
                    f"the run in {path} was stopped before its folder was complete: start it again, there or elsewhere"
                ) from error
            raise RunFolderError(f"{path} is not a run folder: it has no {CONFIG}") from error
        except (OSError, UnreadableError) as error:
            raise RunFolderError(f"{path / CONFIG} cannot be read: {error}. Restore it, then resume") from error
        return cls(path, config)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoint"

    @property
    def increments(self) -> Path:
        """The folder of the increments."""
        return self.path / INCREMENTS

    @property
    def oldest(self) -> int:
        """The round of the oldest checkpoint; 0 if there is none."""
        return next(iter(checkpoint.rounds(self.checkpoints)), 0)

    @property
    def missing(self) -> list[str]:
        """The files of a finished run that do not exist."""
        return [name for name in RESULTS if not (self.path / name).is_file()]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Prevent other runs from writing to the folder inside the context.

        Raises:
            RunFolderError: another run is writing to the folder, or has written to it since it was opened.
        """
        with lock.alone(self.path):
            # Runs are deterministic, so checkpoints of the same rounds are identical.
            if checkpoint.rounds(self.checkpoints) != self._known:
                raise RunFolderError(
                    f"another process has continued the run in {self.path} in the meantime: resume it again"
                )
            try:
                yield
            finally:
                self._known = checkpoint.rounds(self.checkpoints)

    def append(self, row: dict[str, Any]) -> None:
        """Append the row of one round, on disk when this returns; generated texts go to a separate file."""
        row_files.append(self.path, row)

    def rows(self, rounds: int) -> list[dict[str, Any]]:
        """Return the rows of the first ``rounds`` rounds.

        Raises:
            RunFolderError: a line is missing or damaged.
        """
        return row_files.read(self.path, rounds)

    def all_rows(self) -> list[dict[str, Any]]:
        """Return the rows of all rounds that are in the folder.

        Raises:
            RunFolderError: a line is missing or damaged.
        """
        return row_files.read(self.path)

    def start(self) -> dict[str, Any] | None:
        """Return the scores of the model before training, as a row of round 0; None if they are not known yet.

        Raises:
            RunFolderError: the file is damaged.
        """
        return row_files.read_start(self.path)

    def save_start(self, row: dict[str, Any]) -> None:
        """Write the scores of the model before training; generated texts go to a separate file."""
        row_files.save_start(self.path, row)

    def go_back(self, round: int, version: int) -> None:
        """Remove everything written after ``round``, at which ``version`` increments were merged.

        If this is interrupted, a folder that has lost rounds is not marked as finished, and no checkpoint lacks an
        increment.

        Raises:
            RunFolderError: the file of generated texts is damaged, or a name that the run writes to is taken.
        """
        self._raise_if_blocked()
        if row_files.count(self.path) > round:
            for name in (*RESULTS, BEST_MODEL):
                remove(self.path / name)
        checkpoint.forget_after(self.checkpoints, round)
        checkpoint.forget_after(self.path / BEST, round)
        increments.forget_after(self.increments, version)
        row_files.forget_after(self.path, round)

    def _raise_if_blocked(self) -> None:
        """Find out before the training, rather than after it, that a file or folder of the run cannot be written."""
        files = [self.path / name for name in (*RESULTS, BEST_MODEL, *row_files.FILES)]
        folders = [self.checkpoints, self.increments, self.path / BEST]
        wrong = [(path, "file") for path in files if path.exists() and not path.is_file()]
        wrong += [(path, "folder") for path in folders if path.exists() and not path.is_dir()]
        for path, kind in wrong:
            raise RunFolderError(f"{path} is not a {kind}, so the run cannot write it: move it away, then resume")

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint."""
        checkpoint.save(self.checkpoints, snapshot)
        log.info("the checkpoint of round %d is saved in %s", snapshot.state.round, self.checkpoints)

    def save_best(self, snapshot: Snapshot, kept: Collection[int]) -> None:
        """Write the state after the best evaluation so far, then remove those of all rounds that are not ``kept``."""
        checkpoint.save(self.path / BEST, snapshot, kept)

    def best(self, round: int, device: str) -> State | None:
        """Return the state after the best evaluation up to ``round``; None if that was before training.

        Raises:
            RunFolderError: the file of the state is damaged.
        """
        found = [kept for kept in checkpoint.rounds(self.path / BEST) if kept <= round]
        return checkpoint.load(self.path / BEST, found[-1], device).state if found else None

    def latest(self, device: str, from_round: int | None = None) -> Snapshot | None:
        """Return the last checkpoint, or that of ``from_round``; None if the run must start from scratch.

        Raises:
            RunFolderError: the checkpoint is missing or damaged, or the configuration has changed since.
        """
        origin.check_config(self.path, self.config)
        known = checkpoint.rounds(self.checkpoints)
        if from_round is None and not known and (self.path / SUMMARY).is_file():
            raise RunFolderError(
                f"the run in {self.path} is finished, but none of its checkpoints is left to resume from: "
                "add --from-round 0 to train it from scratch"
            )
        if from_round == 0 or (from_round is None and not known):
            return None
        return checkpoint.load(self.checkpoints, known[-1] if from_round is None else from_round, device)

    def finish(self, summary: dict[str, Any], models: Mapping[str, Params]) -> None:
        """Write the tensors of each of ``models``, which are given by the name of their file, and the summary.

        Files that exist are not written again.
        """
        for name, tensors in models.items():
            if not (self.path / name).is_file():
                copies = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
                write_atomic(self.path / name, safetensors.torch.save(copies))
        if not (self.path / SUMMARY).is_file():
            write_atomic(self.path / SUMMARY, json.dumps(summary, indent=2).encode())


def is_free(path: Path) -> bool:
    """Return whether a run can be created at ``path``: it does not exist, or has only hidden or incomplete files."""
    if not path.is_dir():
        return not path.exists()
    return (path / INCOMPLETE_CONFIG).is_file() or all(entry.name.startswith(".") for entry in path.iterdir())


def _raise_if_taken(path: Path) -> None:
    if not is_free(path):
        raise RunFolderError(
            f"{path} already exists, and a run never overwrites another: choose another output folder, "
            f"continue that run with `fedloru resume {path}`, or remove the folder"
        )
