"""Runs from Python: started from values or from a configuration, or resumed from their folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fedloru import report
from fedloru.config import Config, completed, dump, parse, stored
from fedloru.config import plan as make_plan
from fedloru.config.plan import audited, dated, federation_plan
from fedloru.config.trial import try_out
from fedloru.data import Audit, load_partition
from fedloru.errors import RunFolderError
from fedloru.method import State
from fedloru.recipe import Recipe
from fedloru.report import notebook
from fedloru.run import checkpoint
from fedloru.run.callbacks import Callback, Follower, callbacks_of
from fedloru.run.carrier import Carrier
from fedloru.run.checks import check
from fedloru.run.description import PYTHON, echo, partition_record, partition_rows
from fedloru.run.environment import check_environment, environment, restore_threads
from fedloru.run.environment import save as save_environment
from fedloru.run.folder import CONFIG, PARTITION, RunFolder
from fedloru.run.loop import Run
from fedloru.run.origin import SETTINGS, check_config, check_origin, origin
from fedloru.run.places import is_finished
from fedloru.run.plan import Plan, on_device
from fedloru.run.simulation import Simulation
from fedloru.schema import FEDERATION
from fedloru.settings.parameters import with_parameters_of
from fedloru.track import Tracking, tracking

log = logging.getLogger(__name__)


class Participants(NamedTuple):
    """What brings the rounds of a configuration to its clients, and the number of clients that have their own data.

    If it is None, the clients have the parts of the configured partition.
    """

    clients: int | None
    carrier: Callable[[Config], Callable[[Plan, State], Carrier]]


class ReportedRun(Run):
    """A run that writes a page, ``report.html``, to its folder when it finishes, and shows its rounds in a notebook."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.callbacks += [_LiveTable()] if notebook.is_notebook() else []

    def finish(self, folder: RunFolder) -> None:
        """Write the results of the run, then the page."""
        super().finish(folder)
        report.write(folder.path)

    def _repr_html_(self) -> str:
        return notebook.table(repr(self), self.rows, self.plan.rounds)


class _LiveTable(Callback):
    """Shows the rounds of a run below the cell of a notebook that iterates over it."""

    def on_start(self, run: Run) -> None:
        self.run, self.display = run, notebook.Display()

    def on_round(self, row: dict[str, Any]) -> None:
        self.display.show(self.run)

    def on_end(self, run: Run) -> None:
        self.display.show(run, now=True)


@dataclass(frozen=True)
class _Call(Plan):
    """The parameters of ``run``: those of a plan, the run folder, and whether and how to resume."""

    _: KW_ONLY
    out: str | Path | None = None
    resume: bool = False
    accept_changes: bool = False
    callbacks: Iterable[Follower] = ()
    track: str | Mapping[str, Any] | None = None


@with_parameters_of(_Call, Plan, {name: f"pass recipe=fedloru.Recipe({name}=…)" for name in Recipe._fields})
def run(call: _Call) -> ReportedRun:
    """Return a run with ``cohort`` clients per round; iterate over it to train, one row per round.

    With ``out``, the run writes a folder with its rows, checkpoints, model and page. With ``resume``, it continues from
    the last checkpoint in that folder; all other arguments must be the same as before.

    Args:
        out: the run folder, which must not exist unless ``resume`` is set; by default nothing is written.
        resume: whether to resume the run in ``out``.
        accept_changes: whether to resume it even if its environment has changed, such as the number of threads or the
            version of torch, so that the bits may differ from those of an uninterrupted run.
        callbacks: functions that are called with the row of every round, and ``Callback`` objects.
        track: the tracker that follows the run: tensorboard, mlflow or wandb, or a table of its settings, as in the
            section [track] of a configuration.

    Raises:
        ConfigError: a setting is out of range, or settings contradict each other.
        PartitionError: the partition is invalid.
        RunFolderError: the folder already exists; or, with ``resume``, it is missing, damaged or of another run.
    """
    plan = Plan(**{field.name: getattr(call, field.name) for field in dataclasses.fields(Plan)})
    check(plan)
    _set_threads(plan.threads)
    checked = audited(plan.dataset, plan.partition)
    callbacks = [*callbacks_of(call.callbacks), *_tracking(call.track)]
    plan = on_device(plan)
    if not call.resume:
        try_out(plan.net, plan.dataset, plan.partition, plan.recipe, plan.chosen_metrics)
    if call.out is None:
        return ReportedRun(plan, callbacks=callbacks)
    if call.resume:
        RunFolder.open(call.out)
        folder = RunFolder(Path(call.out), echo(plan))
        with folder.alone():
            _restore_threads(folder, None, call.accept_changes)
            return _continue(plan, folder, None, call.accept_changes, callbacks=callbacks)
    return _begin(plan, call.out, echo(plan), checked, callbacks=callbacks)


def _tracking(track: str | Mapping[str, Any] | None) -> list[Tracking]:
    """Return the callback for ``track``, checked as the section [track] of a configuration."""
    if track is None:
        return []
    return tracking(parse({"track": {"tool": track} if isinstance(track, str) else track}).track.model_dump())


def start(config: Config, federation: Participants | None = None, *, callbacks: Iterable[Follower] = ()) -> ReportedRun:
    """Return the run that ``config`` describes, and create its folder; if that fails, nothing is written.

    With ``federation``, real clients with their own data take part; otherwise, they are simulated. ``callbacks`` are
    those of ``run``.

    Raises:
        FedloruError: a part of the run cannot be created as configured, or the folder already exists.
    """
    config = dated(config)
    plan = _plan(config, federation)
    complete = dump(completed(config, plan))
    own_data = plan.partition.scheme == FEDERATION
    checked = None if own_data else audited(plan.dataset, plan.partition)
    followers = [*callbacks_of(callbacks), *tracking(config.track.model_dump())]
    return _begin(plan, config.output.dir, complete, checked, _carrier(config, federation), followers)


def resume(
    folder: str | Path,
    from_round: int | None = None,
    *,
    accept_changes: bool = False,
    federation: Participants | None = None,
    callbacks: Iterable[Follower] = (),
) -> ReportedRun:
    """Return the run of ``folder`` in the state of its last checkpoint, or of the checkpoint of ``from_round``.

    A run with real clients needs the ``federation``. The run uses as many CPU threads as before. With
    ``accept_changes``, it uses those of this process, and goes on if other parts of the environment have changed, such
    as the version of torch; the bits may then differ. ``callbacks`` are those of ``run``.

    Raises:
        RunFolderError: the folder or a checkpoint is missing, damaged, or of another configuration, data set, model or
            environment; or another process writes to the folder.
        FedloruError: a part of the run can no longer be created as configured.
    """
    opened, config = _open(folder, f"resume it with fedloru.run(…, out={str(folder)!r}, resume=True)")
    federation = _same_clients(opened.path, federation)
    with opened.alone():
        opened.latest("cpu", from_round)  # reports a damaged checkpoint before data is loaded
        _restore_threads(opened, from_round, accept_changes)
        plan, carrier = _plan(config, federation), _carrier(config, federation)
        followers = [*callbacks_of(callbacks), *tracking(config.track.model_dump())]
        return _continue(plan, opened, from_round, accept_changes, carrier, followers)


def load_state(folder: str | Path, round: int | None = None) -> tuple[Plan, State]:
    """Return the plan of the run in ``folder`` and the state of its server after ``round``; None: the last checkpoint.

    Nothing is trained, and nothing in the folder changes. Round 0 is the initial state. The plan is on its device.

    Raises:
        RunFolderError: the folder or the checkpoint is missing or damaged, or the run did not start as configured.
        FedloruError: a part of the run can no longer be created as configured.
    """
    opened, config = _open(folder, "analyze its Run from Python, with fedloru.analysis")
    check_config(opened.path, opened.config)
    wanted = checkpoint.wanted(opened.checkpoints, round)
    plan = _plan(config, _recorded_clients(opened.path))
    _check_start(plan, opened.path)
    plan = on_device(plan)
    if not wanted:
        return plan, plan.method.init(plan.net, plan.seed)
    return plan, checkpoint.load_state(opened.checkpoints, wanted, plan.device)


def finished(folder: str | Path) -> bool:
    """Return whether the run in ``folder`` has finished all its rounds and written its model and summary."""
    return is_finished(Path(folder))


def check_unchanged(folder: str | Path) -> None:
    """Check that the configuration in ``folder`` is the one that the run started with, if there is a copy of that.

    Raises:
        RunFolderError: values have changed, or a file is damaged.
    """
    if all((Path(folder) / name).is_file() for name in (CONFIG, SETTINGS)):
        opened = RunFolder.open(folder)
        check_config(opened.path, opened.config)


def _open(folder: str | Path, hint: str) -> tuple[RunFolder, Config]:
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


def _plan(config: Config, federation: Participants | None = None) -> Plan:
    _set_threads(config.engine.threads)
    if federation is None or federation.clients is None:
        return make_plan(config)
    return federation_plan(config, federation.clients)


def _carrier(config: Config, federation: Participants | None) -> Callable[[Plan, State], Carrier]:
    return Simulation if federation is None else federation.carrier(config)


def _recorded_clients(folder: Path) -> Participants | None:
    """Return the federation of a run with real clients, without what brings rounds to them; None for a simulation."""
    partition = load_partition(folder / PARTITION)
    return Participants(len(partition.train), _no_carrier) if partition.scheme == FEDERATION else None


def _no_carrier(config: Config) -> Callable[[Plan, State], Carrier]:
    raise RunFolderError("the run has real clients: continue it with `fedloru serve --resume`")


def _same_clients(folder: Path, federation: Participants | None) -> Participants | None:
    """Return ``federation`` with as many clients as the run had when it started.

    Raises:
        RunFolderError: the run has real clients, but no federation is given, or the other way round.
    """
    recorded = _recorded_clients(folder)
    if recorded is None and federation is not None:
        raise RunFolderError(f"the run in {folder} is a simulation: continue it with `fedloru resume {folder}`")
    if recorded is not None and federation is None:
        raise RunFolderError(
            f"the run in {folder} has real clients: continue it with `fedloru serve --resume {folder}`"
        )
    return None if recorded is None or federation is None else federation._replace(clients=recorded.clients)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _begin(
    plan: Plan,
    out: str | Path,
    config: dict[str, Any],
    checked: Audit | None,
    carrier: Callable[[Plan, State], Carrier] = Simulation,
    callbacks: Iterable[Follower] = (),
) -> ReportedRun:
    run = ReportedRun(plan, carrier=carrier, callbacks=callbacks)  # raises before the folder is created
    record = partition_record(plan.dataset, plan.partition, checked)
    now = environment(plan, run.engine)
    rows = partition_rows(plan.partition, checked)
    run.folder = RunFolder.create(out, config, record, origin(plan), plan.net.imported, now, rows)
    _log(run)
    return run


def _continue(
    plan: Plan,
    folder: RunFolder,
    from_round: int | None,
    accept_changes: bool,
    carrier: Callable[[Plan, State], Carrier] = Simulation,
    callbacks: Iterable[Follower] = (),
) -> ReportedRun:
    _check_start(plan, folder.path)
    run = ReportedRun(plan, folder, folder.latest(plan.device, from_round), carrier, callbacks)
    now = environment(plan, run.engine)
    if not run.state.round:
        save_environment(folder.checkpoints, now)
    elif not run.ended:
        check_environment(folder.checkpoints, run.state.round, now, accept=accept_changes)
    _log(run)
    return run


def _log(run: ReportedRun) -> None:
    log.info("engine %s%s", run.engine.name, f": {run.engine.reason}" if run.engine.reason else "")
    log.info("the run continues after round %d of %d", run.state.round, run.plan.rounds)


def _restore_threads(folder: RunFolder, from_round: int | None, accept_changes: bool) -> None:
    """Use as many threads as the run did, unless it starts over or a change is accepted."""
    if from_round == 0 or accept_changes:
        return
    last = next(reversed(checkpoint.rounds(folder.checkpoints)), 0)
    restore_threads(folder.checkpoints, last if from_round is None else from_round)


def _check_start(plan: Plan, folder: Path) -> None:
    check_origin(folder, origin(plan))
    before = load_partition(folder / PARTITION)
    if (before.train, before.test) != (plan.partition.train, plan.partition.test):
        raise RunFolderError(
            f"the data or its partition differs from {folder / PARTITION}: a resumed run must equal an uninterrupted "
            "one, so restore the data, or start a new run"
        )
