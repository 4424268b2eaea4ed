"""The command that makes the theory visible: ranks of the curvature of clients and server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedloru import tree
from fedloru.cli.app import THE_LINE, Overrides, app, say
from fedloru.cli.progress import Bar
from fedloru.cli.spectrum_table import table, verdicts
from fedloru.cli.study import Batch, Double, Out, Place, Round, Rounds, Source, Studied, check_written, place, studied
from fedloru.cli.train import Quiet
from fedloru.errors import ConfigError
from fedloru.report import units
from fedloru.report.records import RANKS

if TYPE_CHECKING:
    from fedloru.analysis.curvature import Kind
    from fedloru.analysis.spectrum import Effort
    from fedloru.analysis.study import Part, Record

SOME = 5
"""So many clients are studied where nobody says how many."""


@app.command()
def rank(
    source: Source = None,
    overrides: Overrides = None,
    round: Round = None,
    rounds: Rounds = None,
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
    batch: Batch = 250,
    double: Double = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Draws clients, subsets and probes.")] = 0,
    out: Out = None,
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
    from fedloru.analysis.spectrum import LEVEL, Effort
    from fedloru.analysis.study import parts, seconds, subjects

    kinds, counts = _kinds(curvature), _sizes(sizes)
    check_written(out, pictures)
    looked = studied(source, overrides or [], round, rounds, batch, double)
    plan, whole, about = looked
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
    looked = looked._replace(about=about | {"level": LEVEL, **effort._asdict(), "notes": notes})
    to = place(source, out, RANKS, about["round"])
    records = _study(looked, todo, effort, to, quiet)
    written = [*(_draw(records, pictures) if pictures else ()), *to.finish()]
    if not quiet:
        _show(records, written)


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


def _study(looked: Studied, todo: list[Part], effort: Effort, to: Place, quiet: bool) -> list[Record]:
    """Find all spectra; after each, what there is so far is written."""
    from fedloru.analysis.study import study

    records: list[Record] = []
    behind, data = 0, looked.plan.data
    try:
        with Bar(sum(part.work(effort) for part in todo), quiet) as bar:

            def tell(part: Part) -> None:
                bar.step(len(part.subject.rows), f"{part.kind} of {part.layer or 'the model'}, {part.subject.name}")

            found = study(looked.whole, data.train, todo, effort, len(data.classes), tell)
            for part, record in zip(todo, found, strict=True):
                behind += part.work(effort)
                bar.reach(behind)
                records.append(record)
                to.write({"of": looked.about, "records": records})
    except KeyboardInterrupt as error:
        if to.file and records:
            error.add_note(f"{to.file} holds {len(records)} of {len(todo)} spectra.")
        raise
    return records


def _draw(records: list[Record], folder: Path) -> list[Path]:
    """Draw the spectra of the whole model, a picture of each kind for each curvature."""
    from fedloru.analysis import pictures
    from fedloru.analysis.figures import save

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
