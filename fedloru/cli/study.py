"""What ``rank`` and ``align`` share: loading a run or a configuration as a loss, and writing the results."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from fedloru import api, report, tree
from fedloru import config as configs
from fedloru.cli.app import COMMAND_LINE, check_folder, check_place
from fedloru.errors import ConfigError, RunFolderError
from fedloru.evaluate import shared_model
from fedloru.files import write_atomic
from fedloru.method import State
from fedloru.report.records import STUDIES
from fedloru.run.folder import REPORT
from fedloru.run.loop import Run
from fedloru.run.plan import Plan, on_device
from fedloru.schema import FEDERATION

if TYPE_CHECKING:
    from fedloru.analysis.objective import Objective


class Study(NamedTuple):
    """A plan, the mean loss of its shared model, and JSON metadata that identifies both."""

    plan: Plan
    objective: Objective
    metadata: dict[str, Any]


class Destination:
    """Where results are written: to a file, into a run folder, or nowhere."""

    def __init__(self, file: Path | None, run: Path | None) -> None:
        self.file, self.run = file, run

    def write(self, figures: dict[str, Any]) -> None:
        """Write the results so far."""
        if self.file:
            if self.run:
                self.file.parent.mkdir(exist_ok=True)
            write_atomic(self.file, json.dumps(figures, allow_nan=False).encode())

    def finish(self) -> list[Path]:
        """Update the page of the run, if it has one, and return the written files."""
        page = [report.write(self.run)] if self.run and (self.run / REPORT).is_file() else []
        return [*([self.file] if self.file else ()), *page]


def load_study(
    source: str | None, overrides: list[str], round: int | None, rounds: int | None, batch: int, double: bool
) -> Study:
    """Load a run folder at ``round``, or build a configuration and train it for ``rounds``.

    Raises:
        FedloruError: ``source`` does not exist, or cannot be built as configured.
    """
    from fedloru.analysis.objective import objective

    plan, state = _load_state(source, overrides, round, rounds)
    tensors = shared_model(plan.net, plan.method, state)
    dtype = torch.float64 if double else None
    mean_loss = objective(plan.net, tensors, plan.dataset.train, batch_size=batch, dtype=dtype)
    metadata = {
        "source": source or configs.DEMO,
        "round": state.round,
        "method": plan.method.name,
        "data": plan.dataset.name,
        "model": tree.digest(tensors),
        "dtype": str(next(iter(mean_loss.params.values())).dtype).removeprefix("torch."),
    }
    return Study(plan, mean_loss, metadata)


def check_written(out: Path | None, pictures: Path | None) -> None:
    """Check before any computation that the results can be written.

    Raises:
        ConfigError: the folder of ``out`` does not exist, or ``pictures`` is a file.
    """
    if out:
        check_place(out)
    if pictures:
        check_folder(pictures)


def destination(source: str | None, out: Path | None, name: str, round: int) -> Destination:
    """Return where to write the results ``name`` (``ranks`` or ``alignment``) for ``source`` after ``round``."""
    if out or not _is_folder(source):
        return Destination(out, None)
    run = Path(str(source))
    return Destination(run / STUDIES / f"{name}-{round}.json", run)


def _is_folder(source: str | None) -> bool:
    return source is not None and Path(source).is_dir()


def _load_state(source: str | None, overrides: list[str], round: int | None, rounds: int | None) -> tuple[Plan, State]:
    """Return the plan and the server's state, from a checkpoint or after training."""
    folder = _is_folder(source)
    misplaced = {"-s": folder and overrides, "--rounds": folder and rounds is not None}
    misplaced |= {"--round": not folder and round is not None}
    if wrong := [option for option, given in misplaced.items() if given]:
        expected = "a configuration" if folder else "a run folder"
        actual = "a run folder" if folder else "a configuration; use --rounds to train it first"
        problem = f"{wrong[0]} applies only to {expected}, but {source or configs.DEMO} is {actual}"
        raise ConfigError([problem], COMMAND_LINE)
    if source is not None and folder:
        return _with_data(source, *api.load_state(source, round))
    return _train(configs.plan(_load_config(source, overrides)), rounds or 0)


def _with_data(folder: str, plan: Plan, state: State) -> tuple[Plan, State]:
    if plan.partition.scheme == FEDERATION:
        raise RunFolderError(
            f"the run in {folder} has real clients, whose training data is not on this machine: study a simulation "
            "instead, such as one of `fedloru run` with the configuration of the run"
        )
    return plan, state


def _load_config(source: str | None, overrides: list[str]) -> configs.Config:
    try:
        return configs.load(source, overrides)
    except ConfigError as error:
        if source and not Path(source).exists() and source not in configs.presets():
            error.add_note("There is no run folder of that name either.")
        raise


def _train(plan: Plan, rounds: int) -> tuple[Plan, State]:
    if rounds > plan.rounds:
        problem = f"--rounds is {rounds}, but the configuration trains for {plan.rounds} rounds; use -s rounds={rounds}"
        raise ConfigError([problem], COMMAND_LINE)
    if not rounds:
        return on_device(plan), plan.method.init(on_device(plan).net, plan.seed)
    run = Run(plan)
    for _ in islice(run, rounds):
        pass
    return run.plan, run.state
