"""The command ``rank``: stable ranks of the curvature on server and clients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedloru.cli.app import COMMAND_LINE, Overrides, Quiet, app, say
from fedloru.cli.output import Json, console, print_json
from fedloru.cli.study_options import Batch, Double, Out, Round, Rounds, Source
from fedloru.errors import ConfigError

if TYPE_CHECKING:
    from fedloru.analysis.curvature import Kind
    from fedloru.analysis.spectrum import Effort
    from fedloru.analysis.study import Part, Record
    from fedloru.cli.study import Destination, Study

DEFAULT_CLIENTS = 5
"""The number of clients to study by default, if there are as many."""


@app.command()
def rank(
    source: Source = None,
    overrides: Overrides = None,
    round: Round = None,
    rounds: Rounds = None,
    clients: Annotated[
        int | None, typer.Option(min=0, metavar="K", help="Number of client losses to study (default: up to 5).")
    ] = None,
    sizes: Annotated[
        str,
        typer.Option(metavar="N,N,all", help="Study losses over N training examples; 'all' is the server's loss."),
    ] = "all",
    curvature: Annotated[str, typer.Option(metavar="hessian|ggn|both", help="The matrix to study.")] = "hessian",
    layers: Annotated[bool, typer.Option("--layers", help="Also study the diagonal block of each layer.")] = False,
    top: Annotated[
        int, typer.Option(min=1, max=1000, metavar="K", help="Number of eigenvalues of largest magnitude to find.")
    ] = 10,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SHARE",
            help="Add probes until the interval is at most this wide on either side (relative).",
        ),
    ] = 0.1,
    probes: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of probes.")] = 100,
    steps: Annotated[
        int, typer.Option(min=3, metavar="N", help="Number of Lanczos steps for the spectral density.")
    ] = 30,
    runs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of Lanczos runs over which the density is averaged.")
    ] = 1,
    batch: Batch = 250,
    double: Double = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed for choosing clients, subsets and probes.")] = 0,
    out: Out = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Plot stable ranks and densities as PDF and PNG files in DIR.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the stable rank of the curvature on server and clients.

    RUN|CONFIG is a run folder, a TOML file, or the name of a preset (default: the demo preset).

    Computes the stable rank of the Hessian or of the Gauss-Newton matrix, with an interval at a confidence of at least
    99 %, and its largest eigenvalues, norm and spectral density. Prints an estimate of the duration first. Examples:
    fedloru rank runs/demo --clients 3; fedloru rank small --rounds 5 --curvature both --sizes 50,200,all --out
    ranks.json.
    """
    from fedloru import tree
    from fedloru.analysis.cautions import cautions
    from fedloru.analysis.spectrum import LEVEL, Effort
    from fedloru.analysis.study import parts, seconds, subjects
    from fedloru.cli.study import check_written, destination, load_study
    from fedloru.report import units
    from fedloru.report.records import RANKS

    kinds, counts = _parse_kinds(curvature), _parse_sizes(sizes)
    check_written(out, pictures)
    study = load_study(source, overrides or [], round, rounds, batch, double)
    plan, objective, metadata = study
    effort = Effort(top, steps, runs, tolerance, probes, seed)
    effort.check(tree.size(objective.params))
    number = min(DEFAULT_CLIENTS, plan.clients) if clients is None else clients
    todo = parts(objective, subjects(plan.partition.train, counts, number, seed), kinds, layers)
    notes = cautions(objective)
    if not quiet:
        for note in notes:
            say(f"Note: {note}")
        duration = units.duration(seconds(objective, plan.dataset.train, todo, effort))
        say(f"Spectra to compute: {len(todo)}. Estimated time: {duration}.")
    study = study._replace(metadata=metadata | {"level": LEVEL, **effort._asdict(), "notes": notes})
    to = destination(source, out, RANKS, metadata["round"])
    records = _measure(study, todo, effort, to, quiet)
    written = [*(_plot(records, pictures) if pictures else ()), *to.finish()]
    if as_json:
        print_json({"of": study.metadata, "records": records})
    elif not quiet:
        _show(records, written)


def _parse_kinds(curvature: str) -> tuple[Kind, ...]:
    from fedloru.analysis.curvature import KINDS

    if curvature not in (*KINDS, "both"):
        raise ConfigError([f"--curvature is {curvature!r}, expected hessian, ggn or both"], COMMAND_LINE)
    return tuple(kind for kind in KINDS if curvature in (kind, "both"))


def _parse_sizes(text: str) -> list[int | None]:
    """Return the numbers in ``text`` without duplicates; None stands for ``all``."""
    parts = [part.strip() for part in text.split(",")]
    if wrong := [part for part in parts if part != "all" and not part.isdecimal()]:
        problem = f"--sizes contains {wrong[0]!r}, expected numbers of examples or 'all', such as 50,200,all"
        raise ConfigError([problem], COMMAND_LINE)
    return list(dict.fromkeys(None if part == "all" else int(part) for part in parts))


def _measure(study: Study, todo: list[Part], effort: Effort, to: Destination, quiet: bool) -> list[Record]:
    """Compute all spectra, and write the records so far after each."""
    from fedloru.analysis.study import study as compute
    from fedloru.cli.progress import Bar

    records: list[Record] = []
    completed, data = 0, study.plan.dataset
    try:
        with Bar(sum(part.work(effort) for part in todo), quiet) as bar:

            def advance(part: Part) -> None:
                bar.step(len(part.subject.rows), f"{part.kind} of {part.layer or 'the model'}, {part.subject.name}")

            spectra = compute(study.objective, data.train, todo, effort, len(data.classes), advance)
            for part, record in zip(todo, spectra, strict=True):
                completed += part.work(effort)
                bar.reach(completed)
                records.append(record)
                to.write({"of": study.metadata, "records": records})
    except KeyboardInterrupt as error:
        if to.file and records:
            error.add_note(f"{to.file} contains {len(records)} of {len(todo)} spectra.")
        raise
    return records


def _plot(records: list[Record], folder: Path) -> list[Path]:
    """Plot the stable ranks and the spectra of the whole model, in two figures for each kind of curvature."""
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
    from fedloru.cli.spectrum_table import table, verdicts

    out = console()
    out.print(table(records))
    for verdict in verdicts(records):
        out.print(verdict, highlight=False, soft_wrap=True)
    for path in written:
        typer.echo(f"Written: {path}")
