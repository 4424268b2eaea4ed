"""The commands that train: run and resume."""

from __future__ import annotations

import json
import shlex
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from fedloru import api, config
from fedloru import report as reports
from fedloru.api import ReportedRun
from fedloru.cli.app import Overrides, Source, app, say
from fedloru.errors import FedloruError, TrainingError
from fedloru.report import Live, summary_table, units
from fedloru.report.records import personal
from fedloru.run import checkpoint
from fedloru.run.folder import CONFIG, REPORT

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but warnings and errors.")]
LINES = 100
"""Where the output is no terminal, a run prints about so many lines at most."""


@app.command()
def run(
    source: Source = None,
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run folder; it must not exist.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train, and leave a run folder with a report.

    Ctrl-C saves a checkpoint first. Examples: fedloru run; fedloru run my.toml -s method.tau=5; fedloru run small
    --out runs/first.
    """
    chosen = config.load(source, [*(overrides or ()), *([f"output.dir={json.dumps(out)}"] if out else ())])
    _train(api.start(chosen), quiet)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of an earlier run.")],
    from_round: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Go on from the checkpoint of round N, not the last; 0 begins again."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Continue a run that was stopped.

    The result is bit for bit that of a run that was not stopped. With --from-round, a finished run is trained anew
    from there; without it, only what it should have left and is missing is written.
    """
    if from_round is None and api.finished(folder):
        say(f"The run in {folder} is finished: {_page(folder)}.")
        return
    run = api.resume(folder, from_round)
    assert run.folder is not None
    if run.state.round == run.plan.rounds and (missing := run.folder.missing):
        say(f"All {run.plan.rounds} rounds are done; what is missing is written: {', '.join(missing)}.")
    _train(run, quiet)


def _page(folder: Path) -> str:
    if (folder / REPORT).is_file():
        return "there is nothing left to train"
    return f"its report was missing, and is now in {reports.write(folder)}"


def _train(run: ReportedRun, quiet: bool) -> None:
    assert run.folder is not None
    folder = run.folder.path
    for layer, reason in run.plan.net.skipped.items():
        say(f"Note: {layer} is not adapted: {reason}")
    try:
        follow(run, quiet)
    except (FedloruError, OSError, KeyboardInterrupt) as error:
        error.add_note(_way_on(folder, error, run.plan.recipe.lr))
        raise
    if not quiet:
        from rich.console import Console

        Console().print(summary_table(run.summary() | {"personal": personal(run.rows)}))
        typer.echo(f"Report: {folder / 'report.html'}")


def follow(run: ReportedRun, quiet: bool) -> None:
    """Train the rounds that are left, and show each unless ``quiet``."""
    with closing(iter(run)) as rows:
        if quiet:
            for _ in rows:
                pass
            return
        plan, told = run.plan, run.summary()
        facts = [
            ("clients", f"{plan.clients:,}, {plan.cohort:,} a round"),
            ("trained", units.percent(told["trained_parameters"] / told["parameters"])),
            ("engine", run.engine.name),
        ]
        title, every = f"{plan.method.name} on {plan.data.name}", max(1, plan.rounds // LINES)
        with Live(title, plan.rounds, run.state.round, facts, every=every) as live:
            for row in rows:
                live.update(row)


def _way_on(folder: Path, error: BaseException, lr: float) -> str:
    kept = checkpoint.rounds(folder / "checkpoint")
    rounds = f"Rounds 1 to {kept[-1]} are kept" if kept else "No round was kept"
    if isinstance(error, TrainingError):
        again = ["fedloru", "run", str(folder / CONFIG), "-s", f"client.lr={lr / 10:g}", "--out", f"{folder}-2"]
        return (
            f"{rounds}, but the same settings diverge again. Change them in a new run, such as `{shlex.join(again)}`."
        )
    command = f"`fedloru resume {shlex.quote(str(folder))}`"
    return f"{rounds}: {command} {'goes on from there' if kept else 'begins again'} with the same settings."
