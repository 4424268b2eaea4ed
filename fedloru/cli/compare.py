"""The command that compares runs, and trains the missing ones first: compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloru.cli.app import COMMAND_LINE, Overrides, Quiet, app, check_place
from fedloru.errors import ConfigError


@app.command()
def compare(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", hidden=True)] = None,
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
    page: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write a self-contained HTML page.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rounds of all runs as CSV.")] = None,
    target: Annotated[
        float | None,
        typer.Option(metavar="ACCURACY", help="Show the rounds and bytes needed to reach this accuracy, such as 0.9."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare runs; runs that differ only in the seed form a group.

    Each RUN is a run folder, finished or not.

    With --config, runs a configuration with varied settings: missing runs are trained, interrupted ones resumed, and
    finished ones reused. Examples: fedloru compare runs/* -o cmp.html; fedloru compare --config small --vary
    method.name=fedavg,fedlora,fedloru --seeds 3 --target 0.9.
    """
    from fedloru import report as reports
    from fedloru.cli import vary as variations
    from fedloru.cli.comparison import check_count, groups, output

    run_options = {"--vary": vary, "--seeds": seeds, "-s": overrides, "--out": out}
    _check(runs or [], source, [name for name, given in run_options.items() if given], target)
    for path in filter(None, (page, csv)):
        check_place(path)
    if source is not None:
        planned = variations.planned(source, overrides or [], vary or [], seeds or 1, out)
        check_count(len(planned))
        variations.make(planned, quiet)
        runs = [one.folder for one in planned]
    with reports.shown("the comparison"):
        output(groups(runs or []), page, csv, target, quiet)


def _check(runs: list[Path], source: str | None, run_options: list[str], target: float | None) -> None:
    problems = []
    if runs and source is not None:
        problems.append("run folders and --config are both given: use one of them")
    if run_options and source is None:
        problems.append(f"{run_options[0]} requires --config: it does not apply to existing run folders")
    if target is not None and not 0 < target <= 1:
        problems.append(f"--target is {target:g}, expected an accuracy in (0, 1], such as 0.9")
    if problems:
        raise ConfigError(problems, COMMAND_LINE)
