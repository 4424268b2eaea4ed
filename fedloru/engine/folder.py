"""The run folder: configuration, partition, one line a round, checkpoints, and what the run came to."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w

from fedloru.engine import checkpoint
from fedloru.engine.checkpoint import Snapshot
from fedloru.errors import RunFolderError
from fedloru.files import write_atomic
from fedloru.tree import Params

STARTED_WITH = Path("checkpoint", "config.json")
"""A second copy of the configuration, which tells an edited config.toml from the run's own."""


class RunFolder:
    """A folder that a run writes to; what is in it stays, whatever happens to the run."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any], partition: dict[str, Any]) -> RunFolder:
        """Make the folder and write what is known before training.

        Raises:
            RunFolderError: something is there already.
        """
        path = Path(path)
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise RunFolderError(
                f"{path} exists already, and a run never writes over another: choose another output folder, "
                f"continue that run with `fedloru resume {path}`, or remove the folder"
            )
        path.mkdir(parents=True, exist_ok=True)
        write_atomic(path / "config.toml", tomli_w.dumps(config).encode())
        (path / "checkpoint").mkdir()
        write_atomic(path / STARTED_WITH, json.dumps(config).encode())
        write_atomic(path / "partition.json", json.dumps(partition).encode())
        (path / "rounds.jsonl").touch()
        return cls(path, config)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of an earlier session.

        Raises:
            RunFolderError: it is not a run folder, or its configuration cannot be read.
        """
        path = Path(path)
        try:
            config = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunFolderError(f"{path} is not a run folder: it has no config.toml") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{path / 'config.toml'} cannot be read: {error}. Restore it, then resume") from error
        return cls(path, config)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoint"

    @property
    def oldest(self) -> int:
        """The round of the oldest checkpoint; 0 where there is none."""
        return next(iter(checkpoint.rounds(self.checkpoints)), 0)

    def append(self, row: dict[str, Any]) -> None:
        """Add the line of one round, on the disk when this returns."""
        with (self.path / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self, rounds: int) -> list[dict[str, Any]]:
        """Return the lines of the first ``rounds`` rounds, and drop lines and checkpoints of later ones.

        Raises:
            RunFolderError: a line is missing or damaged.
        """
        path = self.path / "rounds.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)[:rounds] if path.is_file() else []
        try:
            rows = [json.loads(line) for line in lines]
        except ValueError as error:
            raise RunFolderError(f"{path} has a damaged line: {error}. Restore the file, then resume") from error
        if [row.get("round") for row in rows] != list(range(1, rounds + 1)):
            raise RunFolderError(f"{path} does not hold rounds 1 to {rounds} in order: restore the file, then resume")
        checkpoint.forget_after(self.checkpoints, rounds)
        write_atomic(path, b"".join(lines))
        return rows

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint."""
        checkpoint.save(self.checkpoints, snapshot)

    def latest(self, device: str, from_round: int | None = None) -> Snapshot | None:
        """Return the newest checkpoint, or that of ``from_round``; None where the run must begin again.

        Raises:
            RunFolderError: the checkpoint is damaged, or the configuration has changed since.
        """
        self.check_unchanged()
        known = checkpoint.rounds(self.checkpoints)
        if from_round == 0 or (from_round is None and not known):
            return None
        return checkpoint.load(self.checkpoints, known[-1] if from_round is None else from_round, device)

    def check_unchanged(self) -> None:
        """Refuse a folder whose configuration is no longer the one that its run started with.

        Raises:
            RunFolderError: a value has changed, or it cannot be told.
        """
        try:
            started = json.loads((self.path / STARTED_WITH).read_bytes())
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{self.path / STARTED_WITH} is missing or damaged ({error}), so it cannot be told whether the "
                "configuration is still the one that the run started with: restore the file, or start a new run"
            ) from error
        if changed := _changes(started, json.loads(json.dumps(self.config))):
            raise RunFolderError(
                f"the configuration in {self.path} has changed since the run started: {'; '.join(changed)}. "
                "A resumed run must equal an uninterrupted one: put the values back, or start a new run"
            )

    def finish(self, summary: dict[str, Any], tensors: Params) -> None:
        """Write the summary and the final model's tensors."""
        whole = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
        write_atomic(self.path / "model.safetensors", safetensors.torch.save(whole))
        write_atomic(self.path / "summary.json", json.dumps(summary, indent=2).encode())


def _changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            changed += _changes(was, now, f"{prefix}{key}.")
        elif was != now:
            changed.append(f"{prefix}{key} was {was!r}, is {now!r}")
    return changed
