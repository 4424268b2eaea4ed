"""Runs from Python: started from values or from a configuration, or resumed from their folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fedloru.config import Config, completed, dump, parse
from fedloru.config import plan as make_plan
from fedloru.config.plan import audited, dated, federation_plan
from fedloru.config.trial import try_out
from fedloru.data import Audit
from fedloru.method import State
from fedloru.recipe import Recipe
from fedloru.reported_run import ReportedRun
from fedloru.run import checkpoint
from fedloru.run.callbacks import Follower, callbacks_of
from fedloru.run.carrier import Carrier
from fedloru.run.checks import check
from fedloru.run.description import echo, partition_record, partition_rows
from fedloru.run.environment import check_environment, environment
from fedloru.run.environment import save as save_environment
from fedloru.run.folder import RunFolder
from fedloru.run.origin import check_config, origin
from fedloru.run.plan import Plan, on_device
from fedloru.run.simulation import Simulation
from fedloru.schema import FEDERATION
from fedloru.settings.parameters import with_parameters_of
from fedloru.stored_run import check_start, open_run, recorded_clients, same_clients, use_recorded_threads
from fedloru.track import Tracking, tracking

log = logging.getLogger(__name__)


class Participants(NamedTuple):
    """What brings the rounds of a configuration to its clients, and the number of clients that have their own data.

    If it is None, the clients have the parts of the configured partition.
    """

    clients: int | None
    carrier: Callable[[Config], Callable[[Plan, State], Carrier]]


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
            use_recorded_threads(folder, None, call.accept_changes)
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
    plan = _plan(config, None if federation is None else federation.clients)
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
    opened, config = open_run(folder, f"resume it with fedloru.run(…, out={str(folder)!r}, resume=True)")
    clients = same_clients(opened.path, real=federation is not None)
    with opened.alone():
        opened.latest("cpu", from_round)  # reports a damaged checkpoint before data is loaded
        use_recorded_threads(opened, from_round, accept_changes)
        plan, carrier = _plan(config, clients), _carrier(config, federation)
        followers = [*callbacks_of(callbacks), *tracking(config.track.model_dump())]
        return _continue(plan, opened, from_round, accept_changes, carrier, followers)


def load_state(folder: str | Path, round: int | None = None) -> tuple[Plan, State]:
    """Return the plan of the run in ``folder`` and the state of its server after ``round``; None: the last checkpoint.

    Nothing is trained, and nothing in the folder changes. Round 0 is the initial state. The plan is on its device.

    Raises:
        RunFolderError: the folder or the checkpoint is missing or damaged, or the run did not start as configured.
        FedloruError: a part of the run can no longer be created as configured.
    """
    opened, config = open_run(folder, "analyze its Run from Python, with fedloru.analysis")
    check_config(opened.path, opened.config)
    wanted = checkpoint.wanted(opened.checkpoints, round)
    plan = _plan(config, recorded_clients(opened.path))
    check_start(plan, opened.path)
    plan = on_device(plan)
    if not wanted:
        return plan, plan.method.init(plan.net, plan.seed)
    return plan, checkpoint.load_state(opened.checkpoints, wanted, plan.device)


def _plan(config: Config, clients: int | None) -> Plan:
    """Return the plan of ``config`` for ``clients`` clients with their own data; None: for the configured partition."""
    _set_threads(config.engine.threads)
    return make_plan(config) if clients is None else federation_plan(config, clients)


def _carrier(config: Config, federation: Participants | None) -> Callable[[Plan, State], Carrier]:
    return Simulation if federation is None else federation.carrier(config)


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
    check_start(plan, folder.path)
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
