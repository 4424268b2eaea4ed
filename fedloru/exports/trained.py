"""The trained model of a run: its plan, the server's state after a round, and the rows up to it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from fedloru import tree
from fedloru.config import Config, stored
from fedloru.config.parts import parts
from fedloru.config.plan import examples
from fedloru.config.texts import is_language_model
from fedloru.data import Dataset, load_partition
from fedloru.errors import ConfigError, DataError, RunFolderError
from fedloru.evaluate import shared_model
from fedloru.lowrank import Increment
from fedloru.method import State
from fedloru.reading import UnreadableError, read_json
from fedloru.run import checkpoint, increments
from fedloru.run.folder import BEST, INCREMENTS, PARTITION, RunFolder
from fedloru.run.loop import Run
from fedloru.run.origin import check_config, check_origin
from fedloru.run.plan import Plan, on_device
from fedloru.tree import Params

log = logging.getLogger("fedloru")


class TrainedRun(NamedTuple):
    """The plan of a run, its state on the CPU and its rows so far; ``folder`` is its run folder, if it has one.

    The plan's data is empty if it is no longer available.
    """

    plan: Plan
    state: State
    rows: list[dict[str, Any]]
    folder: Path | None

    @property
    def tensors(self) -> Params:
        """The shared model, with its factors not merged."""
        return shared_model(self.plan.net, self.plan.method, self.state)

    @property
    def increments(self) -> tuple[Increment, ...]:
        """All increments, in the order of their merges.

        Raises:
            RunFolderError: they were not kept.
        """
        if self.folder is not None:
            return increments.load(self.folder / INCREMENTS, self.state.version)
        if self.state.version:
            raise RunFolderError(
                f"the run has merged {self.state.version} increments, but they were not kept, because it has no run "
                "folder: give the run a folder (out=…), or export the merged model"
            )
        return () if self.plan.net.imported is None else (self.plan.net.imported,)


def trained_run(run: Run | str | Path, round: int | None = None, *, best: bool = False) -> TrainedRun:
    """Return the state of ``run``, a run or a run folder, after ``round`` (default: the last one available).

    With ``best``, it is that of the best evaluation, which the run must have kept.

    Raises:
        RunFolderError: the folder or the checkpoint is missing or damaged, or its starting model has changed.
        ConfigError: ``run`` is not a folder, and ``round`` is not its current round; or the best model is not kept.
    """
    if best and round is not None:
        raise ConfigError([f"round is {round}, but the best round is asked for: leave out one of them"], "export")
    if not isinstance(run, Run):
        return _from_folder(Path(run), round, best)
    if round is not None and round != run.state.round:
        raise ConfigError(
            [f"round is {round}, but the run is at round {run.state.round}: pass its run folder instead"], "export"
        )
    chosen = run.best_state if best else run.state
    base, shared, aux, last = (
        tree.to(each, "cpu") for each in (chosen.base, chosen.shared, chosen.aux, chosen.increment)
    )
    state = chosen._replace(base=base, shared=shared, aux=aux, increment=last)
    folder = None if run.folder is None else run.folder.path
    return TrainedRun(on_device(run.plan.replace(device="cpu")), state, run.rows[: chosen.round], folder)


def _from_folder(path: Path, round: int | None, best: bool) -> TrainedRun:
    folder = RunFolder.open(path)
    if "made_by" in folder.config:
        raise RunFolderError(
            f"{path} was started from Python, so its model cannot be rebuilt from its configuration: resume it with "
            f"fedloru.run(…, out={str(path)!r}, resume=True), and export that run with fedloru.export"
        )
    config = stored(folder.config, str(path / "config.toml"))
    check_config(path, folder.config)
    if best and not config.eval.keep_best:
        raise ConfigError([f"the run in {path} does not keep its best model: train with eval.keep_best"], "export")
    states = path / BEST if best else folder.checkpoints
    wanted = next(reversed(checkpoint.rounds(states)), 0) if best else checkpoint.wanted(states, round)
    plan = _plan(path, config)
    start_hash = tree.digest(plan.net.params | plan.net.buffers)
    check_origin(path, {"starting model": start_hash})
    state = checkpoint.load_state(states, wanted, "cpu") if wanted else plan.method.init(plan.net, plan.seed)
    return TrainedRun(plan, state, folder.rows(wanted), path)


def _plan(path: Path, config: Config) -> Plan:
    """Return the parts of the plan that an export needs; for a language model, only the classes of the data."""
    partition = load_partition(path / PARTITION)
    try:
        data = examples(config)
    except DataError as error:
        if not is_language_model(config.model):
            raise
        log.warning("the data is not available (%s), so the export is checked on random tokens", error)
        data = Dataset("", {}, {}, tuple(_classes(path / PARTITION)))
    net, method = parts(config, data, len(partition.train))
    settings = {"rounds": config.rounds, "cohort": min(config.cohort.size, len(partition.train)), "seed": config.seed}
    return Plan(net, method, data, partition, eval_examples=config.eval.examples, **settings)


def _classes(path: Path) -> list[str]:
    try:
        return [str(name) for name in read_json(path, dict)["classes"]]
    except (OSError, UnreadableError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} does not say the classes of the data: restore the file") from error
