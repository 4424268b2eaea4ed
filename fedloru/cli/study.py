"""What rank and align share: the model of a run folder or a configuration, as a loss, and where figures are written."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
import typer

from fedloru import api, report, tree
from fedloru import config as configs
from fedloru.cli.app import THE_LINE, check_folder, check_place
from fedloru.errors import ConfigError
from fedloru.evaluate import shared_model
from fedloru.files import write_atomic
from fedloru.method import State
from fedloru.report.records import STUDIES
from fedloru.run.folder import REPORT
from fedloru.run.loop import Run
from fedloru.run.plan import Plan, on_device

if TYPE_CHECKING:
    from fedloru.analysis.objective import Objective

Source = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN|CONFIG", help="A run folder, a TOML file, or the name of a preset; without it, the demo."
    ),
]
Round = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Of a run: the checkpoint of round N; without it, the last.")
]
Rounds = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Of a configuration: train N rounds first; without it, none.")
]
Batch = Annotated[int, typer.Option(min=1, metavar="B", help="Examples that go through the model at once.")]
Double = Annotated[bool, typer.Option("--double", help="Compute in float64.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        metavar="FILE",
        help="Write all figures as JSON there; without it, those of a run go into its folder and onto its page.",
    ),
]


class Studied(NamedTuple):
    """A plan, its shared model as a mean loss, and what is known of both, as JSON holds it."""

    plan: Plan
    whole: Objective
    about: dict[str, Any]


class Place:
    """Where figures are written, if anywhere: to a file, or into a run folder."""

    def __init__(self, file: Path | None, run: Path | None) -> None:
        self.file, self.run = file, run

    def write(self, figures: dict[str, Any]) -> None:
        """Write what there is so far."""
        if self.file:
            if self.run:
                self.file.parent.mkdir(exist_ok=True)
            write_atomic(self.file, json.dumps(figures, allow_nan=False).encode())

    def finish(self) -> list[Path]:
        """Draw the page of the run anew, if it is finished and has one, and return what was written."""
        page = [report.write(self.run)] if self.run and (self.run / REPORT).is_file() else []
        return [*([self.file] if self.file else ()), *page]


def studied(
    source: str | None, overrides: list[str], round: int | None, rounds: int | None, batch: int, double: bool
) -> Studied:
    """Return what is to be studied; a configuration is trained first, for ``rounds``.

    Raises:
        FedloruError: it is not there, or cannot be made as configured.
    """
    from fedloru.analysis.objective import objective

    plan, state = _looked_at(source, overrides, round, rounds)
    tensors = shared_model(plan.net, plan.method, state)
    dtype = torch.float64 if double else None
    whole = objective(plan.net, tensors, plan.data.train, batch_size=batch, dtype=dtype)
    about = {
        "source": source or configs.DEMO,
        "round": state.round,
        "method": plan.method.name,
        "data": plan.data.name,
        "model": tree.digest(tensors),
        "dtype": str(next(iter(whole.params.values())).dtype).removeprefix("torch."),
    }
    return Studied(plan, whole, about)


def check_written(out: Path | None, pictures: Path | None) -> None:
    """Refuse places where nothing can be written, before time is spent.

    Raises:
        ConfigError: there is no folder for ``out``, or ``pictures`` is a file.
    """
    if out:
        check_place(out)
    if pictures:
        check_folder(pictures)


def place(source: str | None, out: Path | None, name: str, round: int) -> Place:
    """Return where the figures called ``name`` of ``source`` after ``round`` are written."""
    if out or not _is_folder(source):
        return Place(out, None)
    run = Path(str(source))
    return Place(run / STUDIES / f"{name}-{round}.json", run)


def _is_folder(source: str | None) -> bool:
    return source is not None and Path(source).is_dir()


def _looked_at(source: str | None, overrides: list[str], round: int | None, rounds: int | None) -> tuple[Plan, State]:
    """Return what is studied, and the server's state there."""
    folder = _is_folder(source)
    misplaced = {"-s": folder and overrides, "--rounds": folder and rounds is not None}
    misplaced |= {"--round": not folder and round is not None}
    if wrong := [option for option, given in misplaced.items() if given]:
        what = "run folder, which is taken as it is" if folder else "configuration; --rounds says how long to train it"
        raise ConfigError([f"{wrong[0]} is given, but {source or configs.DEMO} is a {what}"], THE_LINE)
    if source is not None and folder:
        return api.load_state(source, round)
    return _trained(configs.plan(_loaded(source, overrides)), rounds or 0)


def _loaded(source: str | None, overrides: list[str]) -> configs.Config:
    try:
        return configs.load(source, overrides)
    except ConfigError as error:
        if source and not Path(source).exists() and source not in configs.presets():
            error.add_note("Nor is there a run folder of that name.")
        raise


def _trained(plan: Plan, rounds: int) -> tuple[Plan, State]:
    if rounds > plan.rounds:
        problem = f"--rounds is {rounds}, but the configuration trains for {plan.rounds}; set rounds with -s rounds=…"
        raise ConfigError([problem], THE_LINE)
    if not rounds:
        return on_device(plan), plan.method.init(on_device(plan).net, plan.seed)
    run = Run(plan)
    for _ in islice(run, rounds):
        pass
    return run.plan, run.state
