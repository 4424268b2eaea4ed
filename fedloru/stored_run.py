"""Runs in their folders: what they are is read again, and compared with what they started from."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from fedloru.config import Config, stored
from fedloru.config.plan import dated
from fedloru.data import load_partition
from fedloru.errors import RunFolderError
from fedloru.run import checkpoint
from fedloru.run.description import PYTHON
from fedloru.run.environment import restore_threads
from fedloru.run.folder import CONFIG, PARTITION, RunFolder
from fedloru.run.origin import SETTINGS, check_config, check_origin, origin
from fedloru.run.plan import Plan
from fedloru.schema import FEDERATION


def check_unchanged(folder: str | Path) -> None:
    """Check that the configuration in ``folder`` is the one that the run started with, if there is a copy of that.

    Raises:
        RunFolderError: values have changed, or a file is damaged.
    """
    if all((Path(folder) / name).is_file() for name in (CONFIG, SETTINGS)):
        opened = RunFolder.open(folder)
        check_config(opened.path, opened.config)


def open_run(folder: str | Path, hint: str) -> tuple[RunFolder, Config]:
    """Return the folder of a run, and the configuration that it was started with.

    Args:
        folder: the run folder.
        hint: what to do instead if the run was started from Python, so that its configuration does not describe it.

    Raises:
        RunFolderError: it is not a run folder, or the run was started from Python.
        ConfigError: the configuration is not valid.
    """
    opened = RunFolder.open(folder)
    if opened.config.get("made_by") == PYTHON:
        raise RunFolderError(
            f"the run in {folder} was started from Python, and its configuration does not describe its model and data: "
            f"{hint}"
        )
    config = stored(opened.config, str(opened.path / CONFIG))
    has_copy = (opened.path / SETTINGS).is_file()
    created = datetime.fromtimestamp((opened.path / SETTINGS).stat().st_mtime) if has_copy else None
    return opened, dated(config, created)  # runs of earlier versions did not record the date


def recorded_clients(folder: Path) -> int | None:
    """Return the number of clients that a run with real clients had when it started; None for a simulation."""
    partition = load_partition(folder / PARTITION)
    return len(partition.train) if partition.scheme == FEDERATION else None


def same_clients(folder: Path, *, real: bool) -> int | None:
    """Return the number of clients that the run had when it started, if they are ``real``; None for a simulation.

    Raises:
        RunFolderError: the run has real clients and is to be continued with simulated ones, or the other way round.
    """
    recorded = recorded_clients(folder)
    if recorded is None and real:
        raise RunFolderError(f"the run in {folder} is a simulation: continue it with `fedloru resume {folder}`")
    if recorded is not None and not real:
        raise RunFolderError(
            f"the run in {folder} has real clients: continue it with `fedloru serve --resume {folder}`"
        )
    return recorded


def use_recorded_threads(folder: RunFolder, from_round: int | None, accept_changes: bool) -> None:
    """Use as many threads as the run did, unless it starts over or a change is accepted."""
    if from_round == 0 or accept_changes:
        return
    last = next(reversed(checkpoint.rounds(folder.checkpoints)), 0)
    restore_threads(folder.checkpoints, last if from_round is None else from_round)


def check_start(plan: Plan, folder: Path) -> None:
    """Check that the data, the partition and the model of ``plan`` are those that the run in ``folder`` started with.

    Raises:
        RunFolderError: they have changed, or a file is damaged.
    """
    check_origin(folder, origin(plan))
    before = load_partition(folder / PARTITION)
    if (before.train, before.test) != (plan.partition.train, plan.partition.test):
        raise RunFolderError(
            f"the data or its partition differs from {folder / PARTITION}: a resumed run must equal an uninterrupted "
            "one, so restore the data, or start a new run"
        )
