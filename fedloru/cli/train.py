"""The commands that train: run and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloru.cli.app import NewFolder, Overrides, Quiet, Source, app, say
from fedloru.cli.completion import run_folders
from fedloru.cli.output import Json, print_json


@app.command()
def run(
    source: Source = None,
    overrides: Overrides = None,
    out: NewFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model, and write a run folder with a report.

    CONFIG is a TOML file or the name of a preset (default: the demo preset).

    Ctrl-C saves a checkpoint, then stops. Examples: fedloru run; fedloru run my.toml -s method.tau=5; fedloru run small
    --out runs/first.
    """
    from fedloru import api
    from fedloru.cli.training import new_run, train

    with new_run(source, overrides, out, quiet) as chosen:
        train(api.start(chosen), quiet, as_json)


@app.command()
def resume(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", hidden=True, autocompletion=run_folders)] = None,
    from_round: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Resume from the checkpoint of round N (default: the last); 0: restart."),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Resume with the threads, device and library versions of this machine."),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Resume a run that was stopped.

    DIR is the folder of the run (default: the run in runs/ that was stopped last).

    The result is bit-identical to that of an uninterrupted run if the device and the versions of the libraries are the
    same; otherwise it is resumed only with --accept-changes. With --from-round, a finished run is trained again from
    that round; without it, only its missing files are written.
    """
    from fedloru import api
    from fedloru import report as reports
    from fedloru.cli.recent import stopped_last
    from fedloru.cli.training import result, train, write_missing_page
    from fedloru.run.places import is_finished
    from fedloru.stored_run import check_unchanged

    folder = folder or stopped_last()
    if from_round is None and is_finished(folder):
        check_unchanged(folder)
        say(f"The run in {folder} is finished: {write_missing_page(folder)}.")
        if as_json:
            print_json(result(folder, reports.read(folder).summary))
        return
    run = api.resume(folder, from_round, accept_changes=accept_changes)
    assert run.folder is not None
    if run.ended and (missing := run.folder.missing):
        say(f"Nothing is left to train: {run.ended}. Writing what is missing: {', '.join(missing)}.")
    train(run, quiet, as_json)
