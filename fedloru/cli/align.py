"""The command that asks whether gradients of clients agree better when they are cut to low rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedloru.cli.alignment_table import shown, table, verdicts
from fedloru.cli.app import THE_LINE, Overrides, app, say
from fedloru.cli.progress import Bar
from fedloru.cli.study import Batch, Double, Out, Place, Round, Rounds, Source, Studied, check_written, place, studied
from fedloru.cli.train import Quiet
from fedloru.errors import ConfigError
from fedloru.report import units
from fedloru.report.records import ALIGNMENT

if TYPE_CHECKING:
    from fedloru.analysis.study import Record, Subject

SOME = 20
"""So many clients are compared where nobody says how many."""


@app.command()
def align(
    source: Source = None,
    overrides: Overrides = None,
    round: Round = None,
    rounds: Rounds = None,
    clients: Annotated[
        int | None, typer.Option(min=2, metavar="K", help="Compare K clients; without it, 20 at most.")
    ] = None,
    ranks: Annotated[
        str, typer.Option(metavar="R,R", help="Cut the gradient of each weight to these ranks.")
    ] = "1,2,4,8,16,32",
    layers: Annotated[bool, typer.Option("--layers", help="Show each weight as well.")] = False,
    top: Annotated[
        int,
        typer.Option(min=0, max=1000, metavar="K", help="Hold gradients against K eigenvectors; 0: no Hessian."),
    ] = 10,
    batch: Batch = 250,
    double: Double = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Draws clients, and where the search begins.")] = 0,
    out: Out = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw cosines against ranks there, as PDF and PNG.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure how far gradients of clients agree.

    The cosines of all pairs of clients, whole and cut to rank r by singular value decomposition, with what chance
    would give; and the share of each gradient in the span of the top eigenvectors of the server's Hessian. Says first
    how long it will take. Examples: fedloru align runs/demo; fedloru align small --rounds 5 --layers --out align.json.
    """
    from fedloru.analysis.cautions import cautions
    from fedloru.analysis.gradients import check, seconds
    from fedloru.analysis.study import subjects

    grid = _ranks(ranks)
    check_written(out, pictures)
    looked = studied(source, overrides or [], round, rounds, batch, double)
    plan, whole, about = looked
    check(whole, plan.clients, top)
    number = min(SOME, plan.clients) if clients is None else clients
    server, *chosen = subjects(plan.partition.train, [None], number, seed)
    notes = cautions(whole)
    if not quiet:
        for note in notes:
            say(f"Note: {note}")
        duration = units.duration(seconds(whole, plan.data.train, server, chosen, top))
        say(f"Gradients to take: {len(chosen)}. This takes about {duration}.")
    asked = {"ranks": grid, "top": top, "seed": seed, "notes": notes}
    looked = looked._replace(about=about | asked)
    to = place(source, out, ALIGNMENT, about["round"])
    figures = _study(looked, server, chosen, to, quiet)
    written = [*(_draw(figures, layers, pictures) if pictures else ()), *to.finish()]
    if not quiet:
        _show(figures, layers, written)


def _ranks(text: str) -> list[int]:
    """Return the numbers in ``text``, ascending, without what comes twice."""
    parts = [part.strip() for part in text.split(",")]
    if wrong := [part for part in parts if not part.isdecimal() or int(part) < 1]:
        raise ConfigError([f"--ranks has {wrong[0]!r}, expected ranks from 1: 1,2,4,8"], THE_LINE)
    return sorted({int(part) for part in parts})


def _study(looked: Studied, server: Subject, clients: Sequence[Subject], to: Place, quiet: bool) -> Record:
    """Take the gradients, compare them, then find the eigenvectors; what there is after each is written."""
    from fedloru.analysis.gradients import agreement, eigenspace, gradients, products
    from fedloru.analysis.study import held

    data, top, rows = looked.plan.data, looked.about["top"], len(server.rows)
    total = sum(len(client.rows) for client in clients) + rows * products(looked.whole, top)
    figures: Record = {"of": looked.about, "clients": [_client(one, len(data.classes)) for one in clients]}
    with Bar(total, quiet) as bar:
        found = []
        for client, gradient in zip(clients, gradients(looked.whole, data.train, clients), strict=True):
            found.append(gradient)
            bar.step(len(client.rows), f"gradient of {client.name}")
        agreed = agreement(found, looked.about["ranks"])
        figures["agreement"] = {weight: [row._asdict() for row in rows] for weight, rows in agreed.items()}
        to.write(figures)
        if top:
            whole, seed = held(looked.whole, data.train, server), looked.about["seed"]
            said = "hessian of the model, server"
            with _kept(to):
                figures["eigenspace"] = eigenspace(whole, found, top, seed, lambda: bar.step(rows, said))
            to.write(figures)
    return figures


@contextmanager
def _kept(to: Place) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        if to.file:
            error.add_note(f"{to.file} holds the agreement, without the eigenvectors.")
        raise


def _client(subject: Subject, classes: int) -> Record:
    examples = len(subject.rows)
    return {"client": subject.client, "examples": examples, "few": examples < classes}


def _draw(figures: Record, layers: bool, folder: Path) -> list[Path]:
    """Draw the cosines over all weights, and with ``layers`` a picture of each weight."""
    from fedloru.analysis import pictures
    from fedloru.analysis.alignment import Agreement
    from fedloru.analysis.figures import save

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for weight, rows in shown(figures, layers).items():
        figure = pictures.alignment({f"{weight}, round {figures['of']['round']}": [Agreement(**row) for row in rows]})
        paths += save(figure, folder / f"alignment-{weight}")
    return paths


def _show(figures: Record, layers: bool, written: list[Path]) -> None:
    from rich.console import Console

    console = Console()
    console.print(table(shown(figures, layers)))
    for verdict in verdicts(figures):
        console.print(verdict, highlight=False, soft_wrap=True)
    for path in written:
        typer.echo(f"Written: {path}")
