"""What a run has learnt: the server's state after a round, and all that says what it is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from fedloru import tree
from fedloru.config import Config, parse
from fedloru.config.forms import LanguageModel
from fedloru.config.plan import examples, parts
from fedloru.data import Dataset, load_partition
from fedloru.errors import ConfigError, DataError, RunFolderError
from fedloru.evaluate import shared_model
from fedloru.lowrank import Increment
from fedloru.method import State
from fedloru.run import checkpoint, increments
from fedloru.run.folder import INCREMENTS, PARTITION, RunFolder
from fedloru.run.loop import Run
from fedloru.run.origin import check_config, check_origin
from fedloru.run.plan import Plan, on_device
from fedloru.tree import Params

log = logging.getLogger("fedloru")


class Learnt(NamedTuple):
    """The plan of a run, its state and its rows so far, on the CPU; ``folder`` is its run folder, if it has one.

    The data of the plan is empty where it is no longer there.
    """

    plan: Plan
    state: State
    rows: list[dict[str, Any]]
    folder: Path | None

    @property
    def tensors(self) -> Params:
        """The shared model, factors apart."""
        return shared_model(self.plan.net, self.plan.method, self.state)

    @property
    def increments(self) -> tuple[Increment, ...]:
        """All that was merged, in order.

        Raises:
            RunFolderError: it was not kept.
        """
        if self.folder is not None:
            return increments.load(self.folder / INCREMENTS, self.state.version)
        if self.state.version:
            raise RunFolderError(
                f"the run has merged {self.state.version} increments, and has no folder to keep them in: give it one "
                "(out=…), or export the merged model"
            )
        return () if self.plan.net.imported is None else (self.plan.net.imported,)


def of(run: Run | str | Path, round: int | None = None) -> Learnt:
    """Return what ``run``, or that of a folder, has learnt after ``round``; None is the last that there is.

    Raises:
        RunFolderError: the folder or the checkpoint is missing, damaged, or did not begin as configured.
        ConfigError: a round of a run that is no folder.
    """
    if not isinstance(run, Run):
        return _of_folder(Path(run), round)
    if round is not None and round != run.state.round:
        raise ConfigError(
            [f"round is {round}, and the run is after round {run.state.round}: name its folder"], "export"
        )
    base, shared, aux, last = (
        tree.to(each, "cpu") for each in (run.state.base, run.state.shared, run.state.aux, run.state.increment)
    )
    state = run.state._replace(base=base, shared=shared, aux=aux, increment=last)
    folder = None if run.folder is None else run.folder.path
    return Learnt(on_device(run.plan._replace(device="cpu")), state, run.rows, folder)


def _of_folder(path: Path, round: int | None) -> Learnt:
    folder = RunFolder.open(path)
    if "made_by" in folder.config:
        raise RunFolderError(
            f"{path} was started from Python, and its configuration does not rebuild its model: continue it with "
            f"fedloru.run(…, out={str(path)!r}, resume=True), and export the run with fedloru.export"
        )
    config = parse(folder.config, str(path / "config.toml"))
    check_config(path, folder.config)
    wanted = checkpoint.wanted(folder.checkpoints, round)
    plan = _planned(path, config)
    now = tree.digest(plan.net.params | plan.net.buffers)
    check_origin(path, {"starting model": now})
    state = (
        checkpoint.load_state(folder.checkpoints, wanted, "cpu") if wanted else plan.method.init(plan.net, plan.seed)
    )
    return Learnt(plan, state, folder.rows(wanted), path)


def _planned(path: Path, config: Config) -> Plan:
    """Return as much of the plan as an export needs; a language model needs no data but its classes."""
    partition = load_partition(path / PARTITION)
    try:
        data = examples(config)
    except DataError as error:
        if not isinstance(config.model, LanguageModel):
            raise
        log.warning("the data is not there (%s), so that the check takes random tokens", error)
        data = Dataset("", {}, {}, tuple(json.loads((path / PARTITION).read_bytes())["classes"]))
    net, method = parts(config, data, len(partition.train))
    return Plan(net, method, data, partition, config.rounds, config.cohort.size, seed=config.seed)
