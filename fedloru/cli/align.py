"""The command ``align``: agreement of client gradients, in full and truncated to low rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedloru.cli.app import COMMAND_LINE, Overrides, Quiet, app, say
from fedloru.cli.output import Json, console, print_json
from fedloru.cli.study_options import Batch, Double, Out, Round, Rounds, Source
from fedloru.errors import ConfigError

if TYPE_CHECKING:
    from fedloru.analysis.study import Record, Subject
    from fedloru.cli.study import Destination, Study

DEFAULT_CLIENTS = 20
"""The number of clients to compare by default, if there are as many."""


@app.command()
def align(
    source: Source = None,
    overrides: Overrides = None,
    round: Round = None,
    rounds: Rounds = None,
    clients: Annotated[
        int | None, typer.Option(min=2, metavar="K", help="Number of clients to compare (default: up to 20).")
    ] = None,
    ranks: Annotated[
        str, typer.Option(metavar="R,R", help="Ranks to which the gradient of each weight is truncated.")
    ] = "1,2,4,8,16,32",
    layers: Annotated[bool, typer.Option("--layers", help="Also show the results for each weight.")] = False,
    top: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            metavar="K",
            help="Number of top Hessian eigenvectors to compare with; 0 skips the Hessian.",
        ),
    ] = 10,
    batch: Batch = 250,
    double: Double = False,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed for choosing clients and for the eigenvector search.")
    ] = 0,
    out: Out = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Plot cosines against ranks as PDF and PNG files in DIR.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure how well the gradients of clients agree.

    RUN|CONFIG is a run folder, a TOML file, or the name of a preset (default: the demo preset).

    Computes the cosines of all pairs of clients, for full gradients and for gradients truncated to rank r by singular
    value decomposition, with the values expected by chance; and the share of each gradient in the span of the top
    eigenvectors of the server's Hessian. Prints an estimate of the duration first. Examples: fedloru align runs/demo;
    fedloru align small --rounds 5 --layers --out align.json.
    """
    from fedloru.analysis.cautions import cautions
    from fedloru.analysis.gradients import check, seconds
    from fedloru.analysis.study import subjects
    from fedloru.cli.study import check_written, destination, load_study
    from fedloru.report import units
    from fedloru.report.records import ALIGNMENT

    rank_list = _parse_ranks(ranks)
    check_written(out, pictures)
    study = load_study(source, overrides or [], round, rounds, batch, double)
    plan, objective, metadata = study
    check(objective, plan.clients, top)
    number = min(DEFAULT_CLIENTS, plan.clients) if clients is None else clients
    server, *chosen = subjects(plan.partition.train, [None], number, seed)
    notes = cautions(objective)
    if not quiet:
        for note in notes:
            say(f"Note: {note}")
        duration = units.duration(seconds(objective, plan.dataset.train, server, chosen, top))
        say(f"Gradients to compute: {len(chosen)}. Estimated time: {duration}.")
    study = study._replace(metadata=metadata | {"ranks": rank_list, "top": top, "seed": seed, "notes": notes})
    to = destination(source, out, ALIGNMENT, metadata["round"])
    results = _measure(study, server, chosen, to, quiet)
    written = [*(_plot(results, layers, pictures) if pictures else ()), *to.finish()]
    if as_json:
        print_json(results)
    elif not quiet:
        _show(results, layers, written)


def _parse_ranks(text: str) -> list[int]:
    """Return the numbers in ``text``, ascending and without duplicates."""
    parts = [part.strip() for part in text.split(",")]
    if wrong := [part for part in parts if not part.isdecimal() or int(part) < 1]:
        raise ConfigError([f"--ranks contains {wrong[0]!r}, expected positive integers such as 1,2,4,8"], COMMAND_LINE)
    return sorted({int(part) for part in parts})


def _measure(study: Study, server: Subject, clients: Sequence[Subject], to: Destination, quiet: bool) -> Record:
    """Compute and compare the gradients, then find the eigenvectors; write the results after each of the two."""
    from fedloru.analysis.gradients import agreement, eigenspace, gradients, products
    from fedloru.analysis.study import held
    from fedloru.cli.progress import Bar

    data, top, examples = study.plan.dataset, study.metadata["top"], len(server.rows)
    total = sum(len(client.rows) for client in clients) + examples * products(study.objective, top)
    results: Record = {"of": study.metadata, "clients": [_client_record(c, len(data.classes)) for c in clients]}
    with Bar(total, quiet) as bar:
        computed = []
        for client, gradient in zip(clients, gradients(study.objective, data.train, clients), strict=True):
            computed.append(gradient)
            bar.step(len(client.rows), f"gradient of {client.name}")
        by_weight = agreement(computed, study.metadata["ranks"])
        results["agreement"] = {weight: [row._asdict() for row in rows] for weight, rows in by_weight.items()}
        to.write(results)
        if top:
            server_loss, seed = held(study.objective, data.train, server), study.metadata["seed"]
            with _note_partial_results(to):
                results["eigenspace"] = eigenspace(
                    server_loss, computed, top, seed, lambda: bar.step(examples, "Hessian of the model, server")
                )
            to.write(results)
    return results


@contextmanager
def _note_partial_results(to: Destination) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        if to.file:
            error.add_note(f"{to.file} contains the agreement, but not the eigenvectors.")
        raise


def _client_record(subject: Subject, classes: int) -> Record:
    examples = len(subject.rows)
    return {"client": subject.client, "examples": examples, "few": examples < classes}


def _plot(results: Record, layers: bool, folder: Path) -> list[Path]:
    """Plot the cosines over all weights, and with ``layers`` also those of each weight, in one figure each."""
    from fedloru.analysis import pictures
    from fedloru.analysis.alignment import Agreement
    from fedloru.analysis.figures import save
    from fedloru.cli.alignment_table import shown

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for weight, rows in shown(results, layers).items():
        figure = pictures.alignment({f"{weight}, round {results['of']['round']}": [Agreement(**row) for row in rows]})
        paths += save(figure, folder / f"alignment-{weight}")
    return paths


def _show(results: Record, layers: bool, written: list[Path]) -> None:
    from fedloru.cli.alignment_table import shown, table, verdicts

    out = console()
    out.print(table(shown(results, layers)))
    for verdict in verdicts(results):
        out.print(verdict, highlight=False, soft_wrap=True)
    for path in written:
        typer.echo(f"Written: {path}")
