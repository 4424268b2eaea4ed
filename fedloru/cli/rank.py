"""The command that makes the theory visible: ranks of the curvature of clients and server."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from fedloru import api, tree
from fedloru import config as configs
from fedloru.cli.app import THE_LINE, Overrides, app, check_place, say
from fedloru.cli.spectra import Bar, table, verdicts
from fedloru.cli.train import Quiet
from fedloru.engine.loop import Run
from fedloru.engine.plan import Plan, on_device
from fedloru.errors import ConfigError
from fedloru.evaluate import shared_model
from fedloru.files import write_atomic
from fedloru.method import State
from fedloru.report import units
from fedloru.tree import Params

if TYPE_CHECKING:
    from fedloru.analysis.curvature import Kind
    from fedloru.analysis.objective import Objective
    from fedloru.analysis.spectrum import Effort
    from fedloru.analysis.study import Part, Record

SOME = 5
"""So many clients are studied where nobody says how many."""

HELP = "A run folder, a TOML file, or the name of a preset; without it, the demo."


@app.command()
def rank(
    source: Annotated[str | None, typer.Argument(metavar="RUN|CONFIG", help=HELP)] = None,
    overrides: Overrides = None,
    round: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Of a run: the checkpoint of round N; without it, the last.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Of a configuration: train N rounds first; without it, none.")
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=0, metavar="K", help="Study the losses of K clients; without it, of 5 at most.")
    ] = None,
    sizes: Annotated[
        str, typer.Option(metavar="N,N,all", help="Study the loss over so many training examples; all: the server's.")
    ] = "all",
    curvature: Annotated[str, typer.Option(metavar="hessian|ggn|both", help="Which matrix to study.")] = "hessian",
    layers: Annotated[bool, typer.Option("--layers", help="Study the block of each layer as well.")] = False,
    top: Annotated[
        int, typer.Option(min=1, max=1000, metavar="K", help="Find K eigenvalues of largest magnitude.")
    ] = 10,
    tolerance: Annotated[
        float,
        typer.Option(min=0.0, metavar="SHARE", help="Probe until the interval is as narrow as this, either side."),
    ] = 0.1,
    probes: Annotated[int, typer.Option(min=1, metavar="N", help="Probe so often at most.")] = 100,
    steps: Annotated[int, typer.Option(min=3, metavar="N", help="Lanczos steps of the spectral density.")] = 30,
    runs: Annotated[int, typer.Option(min=1, metavar="N", help="Lanczos runs that the density is the mean of.")] = 1,
    batch: Annotated[int, typer.Option(min=1, metavar="B", help="Examples that go through the model at once.")] = 250,
    double: Annotated[bool, typer.Option("--double", help="Compute in float64.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Draws clients, subsets and probes.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write all figures as JSON.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw stable ranks and densities there, as PDF and PNG.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure the rank of curvature, on server and clients.

    The stable rank of the Hessian, or of the Gauss-Newton matrix, with an interval that holds in 99 % of draws or
    more; its largest eigenvalues, norm and density. Says first how long it will take. Examples: fedloru rank
    runs/demo --clients 3; fedloru rank small --rounds 5 --curvature both --sizes 50,200,all --out ranks.json.
    """
    from fedloru.analysis.cautions import cautions
    from fedloru.analysis.objective import objective
    from fedloru.analysis.spectrum import LEVEL, Effort
    from fedloru.analysis.study import parts, seconds, subjects

    kinds, counts = _kinds(curvature), _sizes(sizes)
    if out:
        check_place(out)
    plan, state = _looked_at(source, overrides or [], round, rounds)
    tensors = shared_model(plan.net, plan.method, state)
    dtype = torch.float64 if double else None
    whole = objective(plan.net, tensors, plan.data.train, batch_size=batch, dtype=dtype)
    effort = Effort(top, steps, runs, tolerance, probes, seed)
    effort.check(tree.size(whole.params))
    number = min(SOME, plan.clients) if clients is None else clients
    todo = parts(whole, subjects(plan.partition.train, counts, number, seed), kinds, layers)
    notes = cautions(whole)
    if not quiet:
        for note in notes:
            say(f"Note: {note}")
        duration = units.duration(seconds(whole, plan.data.train, todo, effort))
        say(f"Spectra to find: {len(todo)}. This takes about {duration}.")
    asked = {"dtype": _dtype(whole), "level": LEVEL, **effort._asdict()}
    about = _about(source, plan, state, tensors) | asked | {"notes": notes}
    records = _study(whole, plan, todo, effort, about, out, quiet)
    drawn = _draw(records, pictures) if pictures else []
    if not quiet:
        _show(records, [*([out] if out else ()), *drawn])


def _kinds(curvature: str) -> tuple[Kind, ...]:
    from fedloru.analysis.curvature import KINDS

    if curvature not in (*KINDS, "both"):
        raise ConfigError([f"--curvature is {curvature!r}, expected hessian, ggn or both"], THE_LINE)
    return tuple(kind for kind in KINDS if curvature in (kind, "both"))


def _sizes(text: str) -> list[int | None]:
    """Return the numbers in ``text``, without what comes twice; None is all."""
    parts = [part.strip() for part in text.split(",")]
    if wrong := [part for part in parts if part != "all" and not part.isdecimal()]:
        raise ConfigError([f"--sizes has {wrong[0]!r}, expected numbers of examples and all: 50,200,all"], THE_LINE)
    return list(dict.fromkeys(None if part == "all" else int(part) for part in parts))


def _looked_at(source: str | None, overrides: list[str], round: int | None, rounds: int | None) -> tuple[Plan, State]:
    """Return what is studied, and the server's state there."""
    folder = source is not None and Path(source).is_dir()
    misplaced = {"-s": folder and overrides, "--rounds": folder and rounds is not None}
    misplaced |= {"--round": not folder and round is not None}
    if wrong := [option for option, given in misplaced.items() if given]:
        what = "run folder, which is taken as it is" if folder else "configuration; --rounds says how long to train it"
        raise ConfigError([f"{wrong[0]} is given, but {source or configs.DEMO} is a {what}"], THE_LINE)
    if source is not None and folder:
        return api.look(source, round)
    return _trained(configs.plan(configs.load(source, overrides)), rounds or 0)


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


def _about(source: str | None, plan: Plan, state: State, tensors: Params) -> Record:
    return {
        "source": source or configs.DEMO,
        "round": state.round,
        "method": plan.method.name,
        "data": plan.data.name,
        "model": tree.digest(tensors),
    }


def _dtype(o: Objective) -> str:
    return str(next(iter(o.params.values())).dtype).removeprefix("torch.")


def _study(
    whole: Objective, plan: Plan, todo: list[Part], effort: Effort, about: Record, out: Path | None, quiet: bool
) -> list[Record]:
    """Find all spectra; after each, what there is so far is written."""
    from fedloru.analysis.study import study

    records: list[Record] = []
    try:
        with Bar(todo, effort, quiet) as bar:
            found = study(whole, plan.data.train, todo, effort, len(plan.data.classes), bar.product)
            for part, record in zip(todo, found, strict=True):
                bar.done(part)
                records.append(record)
                if out:
                    write_atomic(out, json.dumps({"of": about, "records": records}, allow_nan=False).encode())
    except KeyboardInterrupt as error:
        if out and records:
            error.add_note(f"{out} holds {len(records)} of {len(todo)} spectra.")
        raise
    return records


def _draw(records: list[Record], folder: Path) -> list[Path]:
    """Draw the spectra of the whole model, a picture of each kind for each curvature."""
    from fedloru.analysis import pictures
    from fedloru.analysis.look import save

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in dict.fromkeys(record["curvature"] for record in records):
        whole = [record for record in records if record["curvature"] == kind and record["layer"] is None]
        paths += save(pictures.stable_ranks(whole), folder / f"stable-rank-{kind}")
        paths += save(pictures.spectra(whole), folder / f"spectrum-{kind}")
    return paths


def _show(records: list[Record], written: list[Path]) -> None:
    from rich.console import Console

    console = Console()
    console.print(table(records))
    for verdict in verdicts(records):
        console.print(verdict, highlight=False, soft_wrap=True)
    for path in written:
        typer.echo(f"Written: {path}")
