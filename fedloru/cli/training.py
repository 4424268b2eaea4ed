"""Training from the command line: progress, results, and how to continue a run that stopped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import typer

from fedloru import config
from fedloru import report as reports
from fedloru.cli.app import say
from fedloru.cli.output import console, print_json
from fedloru.config import Config
from fedloru.errors import TrainingError
from fedloru.report import Live, summary_table, units
from fedloru.report.records import personal
from fedloru.reported_run import ReportedRun
from fedloru.run import checkpoint
from fedloru.run.folder import CONFIG, REPORT
from fedloru.run.notes import notes
from fedloru.run.places import reserved
from fedloru.run.sampling import test_sizes
from fedloru.schema import FEDERATION
from fedloru.settings import short

LINES = 100
"""The approximate maximum number of lines that a run prints if the output is not a terminal."""


def write_missing_page(folder: Path) -> str:
    """Write the page of a finished run if it is missing, and return the end of the message that reports it."""
    if (folder / REPORT).is_file():
        return "nothing is left to train"
    return f"its report was missing, and has been written to {reports.write(folder)}"


def result(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a run as ``--json`` prints them."""
    return {"folder": str(folder), "report": str(folder / REPORT), "summary": summary}


@contextmanager
def new_run(source: str | None, overrides: Sequence[str] | None, out: str | None, quiet: bool) -> Iterator[Config]:
    """Yield the configuration of a new run.

    Its folder is ``out`` or that of an override, which must not exist when the run starts. Otherwise it is that of the
    configuration, with a number if it exists; it is removed if the run cannot be started.
    """
    place = [f"output.dir={json.dumps(out)}"] if out else []
    chosen = config.load(source, [*(overrides or ()), *place])
    if out or any(override.partition("=")[0].strip() == "output.dir" for override in overrides or ()):
        yield chosen
        return
    wanted = Path(chosen.output.dir)
    with reserved(wanted) as folder:
        if folder != wanted and not quiet:
            say(f"{wanted} exists: the run is in {folder}.")
        yield chosen._replace(output=chosen.output.model_copy(update={"dir": folder.as_posix()}))


def train(run: ReportedRun, quiet: bool, as_json: bool = False) -> None:
    """Train the remaining rounds, and print the results: as JSON, or as a table unless ``quiet``."""
    assert run.folder is not None
    folder = run.folder.path
    for note in notes(run.plan, choices=not quiet):
        say(f"Note: {note}")
    try:
        follow(run, quiet, as_json)
    except (Exception, KeyboardInterrupt) as error:
        error.add_note(_next_step(folder, error, run.plan.recipe.rate, run.plan.partition.scheme == FEDERATION))
        raise
    summary = run.summary() | {"personal": personal(run.rows)}
    if as_json:
        print_json(result(folder, summary))
    elif not quiet:
        if run.state.round < run.plan.rounds:
            typer.echo(f"The run ended after round {run.state.round} of {run.plan.rounds}: {run.ended}.")
        console().print(summary_table(summary))
        typer.echo(f"Report: {folder / REPORT}")


def follow(run: ReportedRun, quiet: bool, on_stderr: bool = False) -> None:
    """Train the remaining rounds, and display each unless ``quiet``: on stdout, or on stderr."""
    with closing(iter(run)) as rows:
        if quiet:
            for _ in rows:
                pass
            return
        from rich.console import Console

        plan, summary = run.plan, run.summary()
        facts = [
            ("clients", f"{plan.clients:,}, {plan.cohort:,} per round"),
            ("trained", units.percent(summary["trained_parameters"] / summary["parameters"])),
            ("engine", run.engine.name),
            ("tested", f"{units.part(*test_sizes(plan))} examples"),
        ]
        screen = Console(stderr=on_stderr)
        title, every = f"{short(plan.method.name)} on {plan.dataset.name}", max(1, plan.rounds // LINES)
        with Live(title, plan.rounds, run.state.round, facts, screen, every, lambda: run.carrier.status) as live:
            for row in rows:
                live.update(row)


def _next_step(folder: Path, error: BaseException, lr: float, real: bool) -> str:
    """Return the note about a run that stopped: which rounds are saved, and how to continue."""
    checkpoints = checkpoint.rounds(folder / "checkpoint")
    saved = f"Rounds 1 to {checkpoints[-1]} are saved" if checkpoints else "No round was saved"
    if isinstance(error, TrainingError):
        retry = ["fedloru", "run", str(folder / CONFIG), "-s", f"client.lr={lr / 10:g}"]
        return (
            f"{saved}, but the same settings would diverge again. Start a new run with other settings, such as "
            f"`{shlex.join(retry)}`."
        )
    resume = "serve --resume" if real else "resume"
    command = f"`fedloru {resume} {shlex.quote(str(folder))}`"
    return f"{saved}: {command} {'continues from there' if checkpoints else 'starts again'} with the same settings."
