"""The comparison of runs on the terminal, and the files it is written to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import typer

from fedloru.cli.app import COMMAND_LINE, say
from fedloru.cli.output import console, print_json
from fedloru.comparison import Comparison, places, texts
from fedloru.comparison.compared import of_records, records_of
from fedloru.comparison.groups import grouped
from fedloru.comparison.labels import of_method
from fedloru.comparison.page import terminal_tables
from fedloru.comparison.pictures import check_pictures
from fedloru.errors import ConfigError, choices, quoted
from fedloru.report.records import Records
from fedloru.schema import shown


class Files(NamedTuple):
    """The files to write, each or None; ``pictures`` may be a folder."""

    page: Path | None
    pictures: Path | None
    latex: Path | None
    markdown: Path | None
    table: Path | None
    rounds: Path | None

    def check(self) -> None:
        """Check that all files can be written.

        Raises:
            FedloruError: one cannot be written, or matplotlib is not installed.
        """
        for kind, path in self._asdict().items():
            if path and kind == "pictures":
                check_pictures(path)
            elif path:
                places.check_place(path, kind)

    def write(self, comparison: Comparison, quiet: bool) -> None:
        """Write the files."""
        for kind, path in self._asdict().items():
            if path:
                _write(comparison, kind, path)
                if not quiet:
                    typer.echo(f"{TITLES[kind]}: {path}")


TITLES = {
    "page": "Page",
    "pictures": "Pictures",
    "latex": "LaTeX",
    "markdown": "Markdown",
    "table": "Table",
    "rounds": "Rounds",
}
TEXTS = {"latex": texts.latex, "markdown": texts.markdown, "table": texts.table_csv, "rounds": texts.rounds_csv}


def _write(comparison: Comparison, kind: str, path: Path) -> None:
    if kind == "page":
        comparison.page(path)
    elif kind == "pictures":
        comparison.pictures(path)
    else:
        places.write(path, TEXTS[kind](comparison.results), kind)


def compared(
    runs: Sequence[Path], baseline: str | None, metric: str | None, target: float | None, names: Sequence[str]
) -> Comparison:
    """Return the comparison of the runs in the folders ``runs``; ``names`` has entries OLD=NEW.

    Raises:
        FedloruError: there are fewer than two, one cannot be read, none has been evaluated, or a name is not known.
    """
    records = records_of(runs)
    with shown("the comparison"):
        return of_records(records, baseline, metric, target, _names(names, records))


def output(comparison: Comparison, quiet: bool, as_json: bool) -> None:
    """Print the cautions, and the comparison: as JSON, or as tables unless ``quiet``."""
    for caution in comparison.cautions:
        say(f"Note: {caution}")
    if as_json:
        results = comparison.results
        print_json({"metric": results.metric.name, "target": results.target, "groups": comparison.rows})
    elif not quiet:
        screen = console()
        for table in terminal_tables(comparison.results, screen.width):
            screen.print(table)


def _names(entries: Sequence[str], records: Sequence[Records]) -> dict[str, str]:
    """Return the new names by the old ones, each a label or a method, which may contain "="."""
    groups = grouped(records) if entries else []
    known = [*(group.label for group in groups), *(name for group in groups for name in of_method(group.settings))]
    return dict(_name(entry, known) for entry in entries)


def splits(entry: str) -> list[tuple[str, str]]:
    """Return the pairs of an old and a new name that ``entry``, OLD=NEW, may mean: both names may contain "=".

    Raises:
        ConfigError: there is no such pair.
    """
    pairs = [(entry[:index], " ".join(entry[index + 1 :].split())) for index, c in enumerate(entry) if c == "="]
    if found := [(old, new) for old, new in pairs if new]:
        return found
    raise ConfigError([f"--name is {quoted(entry)}, expected OLD=NEW, such as fedloru=Ours"], COMMAND_LINE)


def _name(entry: str, known: Sequence[str]) -> tuple[str, str]:
    found = [(old, new) for old, new in splits(entry) if old in known]
    if not found:
        old = splits(entry)[-1][0]
        raise ConfigError(
            [f"--name: {quoted(old)} is neither a label nor a method of the runs{choices(old, dict.fromkeys(known))}"],
            COMMAND_LINE,
        )
    return found[-1]
