"""The run folder: configuration, partition, one line a round, checkpoints, and what the run came to."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w

from fedloru.errors import RunFolderError
from fedloru.files import remove, rename, write_atomic
from fedloru.lowrank import Increment
from fedloru.run import checkpoint, increments, lock, origin
from fedloru.run.checkpoint import Snapshot
from fedloru.tree import Params

CONFIG, PARTITION, ROUNDS = "config.toml", "partition.json", "rounds.jsonl"
SUMMARY, REPORT, MODEL = "summary.json", "report.html", "model.safetensors"
RESULTS = (SUMMARY, REPORT, MODEL)
"""What a finished run leaves; the summary claims that it is finished, so it comes last and goes first."""
UNMADE = ".config.toml.new"
"""The configuration while the folder is being made; it gets its own name when all else is there."""
INCREMENTS = "increments"
"""The folder of what was merged."""
GENERATIONS = "generations"
"""What a model wrote at evaluations: a key of a row in memory, and a file of the folder."""


class RunFolder:
    """A folder that a run writes to; what is in it stays, whatever happens to the run."""

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
    ) -> RunFolder:
        """Make the folder and write what is known before training; killed in between, it can be called again.

        ``imported`` is what was merged into the model beforehand.

        Raises:
            RunFolderError: something is there already.
        """
        path = Path(path)
        _refuse_taken(path)
        path.mkdir(parents=True, exist_ok=True)
        with lock.alone(path):
            _refuse_taken(path)  # another process may have been quicker
            write_atomic(path / UNMADE, tomli_w.dumps(config).encode())
            (path / "checkpoint").mkdir(exist_ok=True)
            origin.save(path, config, hashes or {})
            write_atomic(path / PARTITION, json.dumps(partition).encode())
            write_atomic(path / ROUNDS, b"")
            if imported is not None:
                increments.save(path / INCREMENTS, 0, imported)
            rename(path / UNMADE, path / CONFIG)
        return cls(path, config)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of an earlier session.

        Raises:
            RunFolderError: it is not a run folder, or its configuration cannot be read.
        """
        path = Path(path)
        try:
            config = tomllib.loads((path / CONFIG).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            if (path / UNMADE).is_file():
                raise RunFolderError(
                    f"the run in {path} was stopped before its folder was made: start it again, there or elsewhere"
                ) from error
            raise RunFolderError(f"{path} is not a run folder: it has no {CONFIG}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{path / CONFIG} cannot be read: {error}. Restore it, then resume") from error
        return cls(path, config)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoint"

    @property
    def increments(self) -> Path:
        """Where increments are."""
        return self.path / INCREMENTS

    @property
    def oldest(self) -> int:
        """The round of the oldest checkpoint; 0 where there is none."""
        return next(iter(checkpoint.rounds(self.checkpoints)), 0)

    @property
    def missing(self) -> list[str]:
        """What a finished run leaves and is not there."""
        return [name for name in RESULTS if not (self.path / name).is_file()]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs from writing to the folder for a while.

        Raises:
            RunFolderError: another run writes to it, or has done so since this one last looked.
        """
        with lock.alone(self.path):
            # The same plan trains the same rounds, so checkpoints of the same rounds are the same checkpoints.
            if checkpoint.rounds(self.checkpoints) != self._known:
                raise RunFolderError(
                    f"another process has gone on with the run in {self.path} in the meantime: resume it anew"
                )
            try:
                yield
            finally:
                self._known = checkpoint.rounds(self.checkpoints)

    def append(self, row: dict[str, Any]) -> None:
        """Add the line of one round, on the disk when this returns; what the model wrote goes to a file of its own."""
        written = [{"round": row["round"], **each} for each in row.get(GENERATIONS, ())]
        if written:
            _append(self.path / f"{GENERATIONS}.jsonl", written)
        _append(self.path / ROUNDS, [{key: value for key, value in row.items() if key != GENERATIONS}])

    def rows(self, rounds: int) -> list[dict[str, Any]]:
        """Return the lines of the first ``rounds`` rounds.

        Raises:
            RunFolderError: a line is missing or damaged.
        """
        path = self.path / ROUNDS
        try:
            rows = [json.loads(line) for line in self._lines()[:rounds]]
        except ValueError as error:
            raise RunFolderError(f"{path} has a damaged line: {error}. Restore the file, then resume") from error
        if [row.get("round") for row in rows] != list(range(1, rounds + 1)):
            raise RunFolderError(f"{path} does not hold rounds 1 to {rounds} in order: restore the file, then resume")
        return rows

    def go_back(self, round: int, version: int) -> None:
        """Drop all that came after ``round``, when so many increments were merged.

        A folder whose later rounds go never claims to be finished, and none of its checkpoints lacks an increment.

        Raises:
            RunFolderError: what the model wrote is damaged.
        """
        lines = self._lines()
        if len(lines) > round:
            for name in RESULTS:
                remove(self.path / name)
        checkpoint.forget_after(self.checkpoints, round)
        increments.forget_after(self.increments, version)
        self._forget_generations(round)
        write_atomic(self.path / ROUNDS, b"".join(lines[:round]))

    def _forget_generations(self, round: int) -> None:
        """Drop what the model wrote after ``round``, and half a line that a killed run may leave."""
        path = self.path / f"{GENERATIONS}.jsonl"
        if not path.is_file():
            return
        whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        try:
            kept = [line for line in whole if json.loads(line)["round"] <= round]
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path} has a damaged line: {error}. Restore or remove it, then resume") from error
        write_atomic(path, b"".join(kept))

    def _lines(self) -> list[bytes]:
        path = self.path / ROUNDS
        return path.read_bytes().splitlines(keepends=True) if path.is_file() else []

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint."""
        checkpoint.save(self.checkpoints, snapshot)

    def latest(self, device: str, from_round: int | None = None) -> Snapshot | None:
        """Return the newest checkpoint, or that of ``from_round``; None where the run must begin again.

        Raises:
            RunFolderError: the checkpoint is missing or damaged, or the configuration has changed since.
        """
        origin.check_config(self.path, self.config)
        known = checkpoint.rounds(self.checkpoints)
        if from_round is None and not known and (self.path / SUMMARY).is_file():
            raise RunFolderError(
                f"the run in {self.path} is finished, but none of its checkpoints is left to go on from: "
                "add --from-round 0 to train it anew"
            )
        if from_round == 0 or (from_round is None and not known):
            return None
        return checkpoint.load(self.checkpoints, known[-1] if from_round is None else from_round, device)

    def finish(self, summary: dict[str, Any], tensors: Params) -> None:
        """Write the final model's tensors and the summary, where they are missing."""
        if not (self.path / MODEL).is_file():
            whole = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
            write_atomic(self.path / MODEL, safetensors.torch.save(whole))
        if not (self.path / SUMMARY).is_file():
            write_atomic(self.path / SUMMARY, json.dumps(summary, indent=2).encode())


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def is_free(path: Path) -> bool:
    """Say whether a run can be made at ``path``: nothing is there, or hidden files, or one killed in its making."""
    if not path.is_dir():
        return not path.exists()
    return (path / UNMADE).is_file() or all(entry.name.startswith(".") for entry in path.iterdir())


def _refuse_taken(path: Path) -> None:
    if not is_free(path):
        raise RunFolderError(
            f"{path} exists already, and a run never writes over another: choose another output folder, "
            f"continue that run with `fedloru resume {path}`, or remove the folder"
        )
