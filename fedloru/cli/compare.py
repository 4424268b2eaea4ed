"""The command that compares runs, and trains the missing ones first: compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloru.cli.app import COMMAND_LINE, Overrides, Quiet, app
from fedloru.cli.completion import run_folders
from fedloru.cli.output import Json
from fedloru.errors import ConfigError


@app.command()
def compare(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", hidden=True, autocompletion=run_folders)] = None,
    source: Annotated[
        str | None, typer.Option("--config", metavar="CONFIG", help="Instead of run folders: the configuration to run.")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2", help="Values of a setting to compare; if repeated, in all combinations."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Run each with the seeds 0 to N-1 (default: only 0).")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder that contains the run folders (default: runs/compare-CONFIG)."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL", help="The group or method to compare the others with (default: FedAvg, or the first)."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The metric, such as loss (default: the accuracy, if there is one)."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(metavar="VALUE", help="Show the rounds, MB and seconds needed to reach this value, such as 0.9."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="OLD=NEW", help="Rename a group or a method in all results; may be repeated."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write a self-contained HTML page.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="PLACE", help="Write learning curves for a paper: a folder, or a file.pdf, file.png or file.svg."
        ),
    ] = None,
    latex: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the tables as LaTeX (booktabs, graphicx).")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tables as Markdown.")] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the results as CSV, one line per group.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rounds as CSV, one line per round of each run.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare runs; runs that differ only in the seed form a group.

    Each RUN is a run folder, finished or not, or a folder that contains run folders.

    With --config, runs a configuration with varied settings: missing runs are trained, interrupted ones resumed, and
    finished ones reused. A varied setting applies to the methods that have it. Examples: fedloru compare runs -o
    cmp.html; fedloru compare --config small --vary method.name=fedavg,fedloru --vary method.tau=5,10 --seeds 3.
    """
    from fedloru.cli import vary as variations
    from fedloru.cli.comparison import Files, compared, output

    run_options = {"--vary": vary, "--seeds": seeds, "-s": overrides, "--out": out}
    _check(runs or [], source, [name for name, given in run_options.items() if given])
    files = Files(page, pictures, latex, markdown, table, csv)
    files.check()
    if source is not None:
        from fedloru.cli.early_checks import check_options

        planned = variations.planned(source, overrides or [], vary or [], seeds or 1, out)
        check_options([one.config for one in planned], baseline, metric, target, names or [])
        variations.make(planned, quiet, as_json)
        runs = [one.folder for one in planned]
    comparison = compared(runs or [], baseline, metric, target, names or [])
    output(comparison, quiet, as_json)
    files.write(comparison, quiet or as_json)


def _check(runs: list[Path], source: str | None, run_options: list[str]) -> None:
    problems = []
    if runs and source is not None:
        problems.append("run folders and --config are both given: use one of them")
    if run_options and source is None:
        problems.append(f"{run_options[0]} requires --config: it does not apply to existing run folders")
    if problems:
        raise ConfigError(problems, COMMAND_LINE)
