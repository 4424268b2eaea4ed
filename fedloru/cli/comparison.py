"""The comparison of runs on the terminal, as CSV and as a page."""

from __future__ import annotations

from pathlib import Path

import typer

from fedloru import report as reports
from fedloru.cli.app import COMMAND_LINE, say
from fedloru.errors import ConfigError, RunFolderError
from fedloru.report import Group
from fedloru.report.plotly_script import is_shared


def check_count(runs: int) -> None:
    """Check that there are at least two runs to compare.

    Raises:
        ConfigError: there are fewer.
    """
    if runs < 2:
        raise ConfigError(
            ["there is nothing to compare: name at least two run folders, or use --config with --vary or --seeds"],
            COMMAND_LINE,
        )


def groups(folders: list[Path]) -> list[Group]:
    """Return the runs in ``folders``, those that differ only in the seed as one group.

    Raises:
        FedloruError: there are fewer than two, one cannot be read, or none has been evaluated.
    """
    distinct = {folder.resolve(): folder for folder in folders if not is_shared(folder)}
    check_count(len(distinct))
    runs = [reports.read(folder) for folder in distinct.values()]
    if not any(row["test_loss"] is not None for run in runs for row in run.rounds):
        raise RunFolderError("there is nothing to compare: none of the runs has been evaluated yet")
    return reports.grouped(runs)


def output(groups: list[Group], page: Path | None, csv: Path | None, target: float | None, quiet: bool) -> None:
    """Print the comparison of ``groups`` unless ``quiet``, and write it to the files ``page`` and ``csv``."""
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
