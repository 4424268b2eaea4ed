"""Runs from Python: started from values or from a configuration, and continued from their folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch

from fedloru import report, tree
from fedloru.config import Config, completed, dump, parse
from fedloru.config import plan as make_plan
from fedloru.config.plan import audited
from fedloru.data import Audit, Dataset, Partition, load_partition, partition_table
from fedloru.engine import EngineName
from fedloru.engine.fused.fold import Path as LayerPath
from fedloru.errors import RunFolderError
from fedloru.method import Method, Profile, State
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.run import checkpoint
from fedloru.run.folder import MODEL, PARTITION, SUMMARY, RunFolder
from fedloru.run.loop import Run
from fedloru.run.origin import check_config, check_origin, origin
from fedloru.run.plan import Plan, on_device
from fedloru.tree import Params

PYTHON = "python"


class Settings(TypedDict, total=False):
    """The settings of ``run`` that have defaults; ``Plan`` says what they mean."""

    cohort_seed: int | None
    engine: EngineName
    chunk: int | None
    path: LayerPath
    device: str
    codec: str
    round_trip: bool
    first_download: bool
    eval_every: int
    eval_clients: int
    diagnostics: bool
    eval_hook: Callable[[Net, Params], dict[str, Any]] | None
    profiles: tuple[Profile, ...]
    checkpoint_every: int
    increments: bool | None


class ReportedRun(Run):
    """A run that ends with a page, ``report.html`` in its folder."""

    def finish(self, folder: RunFolder) -> None:
        """Write what the run has come to, then the page."""
        super().finish(folder)
        report.write(folder.path)


def run(
    net: Net,
    method: Method,
    dataset: Dataset,
    partition: Partition,
    *,
    rounds: int,
    cohort: int,
    recipe: Recipe = Recipe(),  # noqa: B008  # a NamedTuple never changes
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    **settings: Unpack[Settings],
) -> ReportedRun:
    """Return a run over ``cohort`` clients a round; iterate over it to train, one row a round.

    With ``out``, the run leaves a folder there: rows, checkpoints, the model and a page. With ``resume``, it goes on
    from the last checkpoint in that folder, where everything else must be as it was.

    Raises:
        ConfigError: counts out of range.
        PartitionError: the partition is not sound.
        RunFolderError: the folder exists, or to resume, it is missing, damaged or of another run.
    """
    plan = Plan(net, method, dataset, partition, rounds, cohort, recipe, seed, **settings)
    checked = audited(dataset, partition)
    if out is None:
        return ReportedRun(plan)
    if resume:
        RunFolder.open(out)
        folder = RunFolder(Path(out), echo(plan))
        with folder.alone():
            return _continue(plan, folder)
    return _begin(plan, out, echo(plan), checked)


def start(config: Config) -> ReportedRun:
    """Return the run that ``config`` describes, with its folder made; nothing is written if that fails.

    Raises:
        FedloruError: something cannot be made as configured, or the folder exists.
    """
    plan = _planned(config)
    whole = dump(completed(config, plan))
    return _begin(plan, config.output.dir, whole, audited(plan.data, plan.partition))


def resume(folder: str | Path, from_round: int | None = None) -> ReportedRun:
    """Return the run of ``folder`` where its last checkpoint, or that of ``from_round``, left it.

    Raises:
        RunFolderError: the folder or a checkpoint is missing, damaged, or of another configuration, data set or
            model; or another run writes to it.
        FedloruError: something can no longer be made as configured.
    """
    opened, config = _opened(folder, f"continue it with fedloru.run(…, out={str(folder)!r}, resume=True)")
    with opened.alone():
        opened.latest("cpu", from_round)  # a damaged checkpoint or changed configuration is told before data is loaded
        return _continue(_planned(config), opened, from_round)


def load_state(folder: str | Path, round: int | None = None) -> tuple[Plan, State]:
    """Return what the run of ``folder`` is made of, and what its server knew after ``round`` (None: the last kept).

    Nothing is trained, and nothing in the folder changes. Round 0 is the start. The plan is on its device.

    Raises:
        RunFolderError: the folder or the checkpoint is missing, damaged, or did not begin as configured.
        FedloruError: something can no longer be made as configured.
    """
    opened, config = _opened(folder, "study its Run from Python, with fedloru.analysis")
    check_config(opened.path, opened.config)
    wanted = checkpoint.wanted(opened.checkpoints, round)
    plan = _planned(config)
    _check_start(plan, opened.path)
    plan = on_device(plan)
    if not wanted:
        return plan, plan.method.init(plan.net, plan.seed)
    return plan, checkpoint.load_state(opened.checkpoints, wanted, plan.device)


def finished(folder: str | Path) -> bool:
    """Say whether the run in ``folder`` has done all its rounds and written its model and summary."""
    return all((Path(folder) / name).is_file() for name in (MODEL, SUMMARY))


def echo(plan: Plan) -> dict[str, Any]:
    """Return what is known of a run made in Python, in the sections of a configuration, without None."""
    sites = {site.weight: site.rank for site in plan.net.sites}
    start = {"name": type(plan.net.model).__name__, "hash": tree.digest(plan.net.params)}
    table = {
        "made_by": PYTHON,
        "seed": plan.seed,
        "rounds": plan.rounds,
        "data": {"source": plan.data.name},
        "partition": {"scheme": plan.partition.scheme, "seed": plan.partition.seed, **plan.partition.settings},
        "model": start,
        "lowrank": {"ranks": sites, "scales": {site.weight: site.scale for site in plan.net.sites}},
        "method": {"name": plan.method.name, **plan.method.config},
        "client": plan.recipe._asdict(),
        "cohort": {"size": plan.cohort, "seed": plan.cohort_seed},
        "wire": {"codec": plan.codec, "round_trip": plan.round_trip, "first_download": plan.sends_base},
        "engine": {"name": plan.engine, "chunk": plan.chunk, "path": plan.path, "device": plan.device},
        "eval": {"every": plan.eval_every, "clients": plan.eval_clients, "diagnostics": plan.diagnostics},
        "output": {"checkpoint_every": plan.checkpoint_every, "increments": plan.keeps_increments},
    }
    return {key: _without_none(value) for key, value in table.items()}


def partition_record(dataset: Dataset, partition: Partition, checked: Audit) -> dict[str, Any]:
    """Return what ``partition.json`` holds: who has which rows, examples by class, and the audit."""
    least, middle, most = checked.sizes
    return {
        **partition_table(partition),
        "classes": list(dataset.classes),
        "counts": checked.counts.tolist(),
        "audit": {
            "clients": checked.clients,
            "examples": checked.examples,
            "unused": checked.unused,
            "min": least,
            "median": middle,
            "max": most,
            "skew": checked.skew,
            "mean_classes": checked.classes,
            **dict(zip(("min_tokens", "median_tokens", "max_tokens"), checked.tokens or (), strict=False)),
            **dataset.notes,
        },
    }


def _opened(folder: str | Path, way_on: str) -> tuple[RunFolder, Config]:
    opened = RunFolder.open(folder)
    if opened.config.get("made_by") == PYTHON:
        raise RunFolderError(
            f"{folder} was started from Python, and its configuration does not rebuild its model and data: {way_on}"
        )
    return opened, parse(opened.config, str(Path(folder) / "config.toml"))


def _planned(config: Config) -> Plan:
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    return make_plan(config)


def _begin(plan: Plan, out: str | Path, config: dict[str, Any], checked: Audit) -> ReportedRun:
    begun = ReportedRun(plan)  # whatever it refuses, it refuses before there is a folder
    record = partition_record(plan.data, plan.partition, checked)
    begun.folder = RunFolder.create(out, config, record, origin(plan), plan.net.imported)
    return begun


def _continue(plan: Plan, folder: RunFolder, from_round: int | None = None) -> ReportedRun:
    _check_start(plan, folder.path)
    return ReportedRun(plan, folder, folder.latest(plan.device, from_round))


def _check_start(plan: Plan, folder: Path) -> None:
    check_origin(folder, origin(plan))
    before = load_partition(folder / PARTITION)
    if _rows(before) != _rows(plan.partition):
        raise RunFolderError(
            f"the data or its partition is no longer the one in {folder / PARTITION}: a resumed run must equal "
            "an uninterrupted one, so restore the data, or start a new run"
        )


def _rows(partition: Partition) -> list[list[list[int]]]:
    return [[rows.tolist() for rows in side] for side in (partition.train, partition.test)]


def _without_none(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
