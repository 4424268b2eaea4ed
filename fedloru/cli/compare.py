"""The command that compares runs, and first makes those that are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloru import report as reports
from fedloru.cli import vary as variations
from fedloru.cli.app import THE_LINE, Overrides, app, check_place, say
from fedloru.cli.train import Quiet
from fedloru.errors import ConfigError, RunFolderError
from fedloru.report import Group


@app.command()
def compare(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="Run folders, finished or not.")] = None,
    source: Annotated[
        str | None, typer.Option("--config", metavar="CONFIG", help="In place of folders: what to run and compare.")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2", help="Values of a setting to run; may be repeated, for all combinations."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Run each with the seeds 0 to N-1; without it, with 0.")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the run folders are; without it, runs/compare-CONFIG.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write one self-contained HTML page.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rounds of all runs as CSV.")] = None,
    target: Annotated[
        float | None, typer.Option(metavar="ACCURACY", help="Show what it took to reach this accuracy, such as 0.9.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare runs, with seeds grouped.

    Either run folders, or a configuration: its runs that are missing are made, interrupted ones resumed, and
    finished ones taken as they are. Examples: fedloru compare runs/* -o cmp.html; fedloru compare --config small
    --vary method.name=fedavg,fedlora,fedloru --seeds 3 --target 0.9.
    """
    making = {"--vary": vary, "--seeds": seeds, "-s": overrides, "--out": out}
    _check(runs or [], source, [name for name, given in making.items() if given], target)
    for path in filter(None, (page, csv)):
        check_place(path)
    if source is not None:
        planned = variations.planned(source, overrides or [], vary or [], seeds or 1, out)
        _several(len(planned))
        variations.make(planned, quiet)
        runs = [one.folder for one in planned]
    _tell(_groups(runs or []), page, csv, target, quiet)


def _check(runs: list[Path], source: str | None, making: list[str], target: float | None) -> None:
    problems = []
    if runs and source is not None:
        problems.append("run folders and --config are both given: name the one or the other")
    if making and source is None:
        problems.append(f"{making[0]} is given without --config: only runs that are made here can be set up")
    if target is not None and not 0 < target <= 1:
        problems.append(f"--target is {target:g}, expected an accuracy above 0 and up to 1, such as 0.9")
    if problems:
        raise ConfigError(problems, THE_LINE)


def _several(runs: int) -> None:
    if runs < 2:
        raise ConfigError(
            ["there is nothing to compare: name two run folders or more, or with --config, values or seeds to vary"],
            THE_LINE,
        )


def _groups(folders: list[Path]) -> list[Group]:
    distinct = {folder.resolve(): folder for folder in folders}
    _several(len(distinct))
    runs = [reports.read(folder) for folder in distinct.values()]
    if not any(row["test_accuracy"] is not None for run in runs for row in run.rounds):
        raise RunFolderError("there is nothing to compare: none of the runs has been evaluated yet")
    return reports.grouped(runs)


def _tell(groups: list[Group], page: Path | None, csv: Path | None, target: float | None, quiet: bool) -> None:
    from rich.console import Console

    for caution in reports.cautions(groups):
        say(f"Note: {caution}")
    if not quiet:
        Console().print(reports.comparison_table(groups, target))
    if csv:
        reports.write_csv(csv, groups)
    if page:
        reports.write_comparison(page, groups, target)
    for name, path in (("CSV", csv), ("Page", page)):
        if path and not quiet:
            typer.echo(f"{name}: {path}")
