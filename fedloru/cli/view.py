"""The commands that do not train: audit, cost, report, config and presets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloru.cli.app import Overrides, Source, app
from fedloru.cli.completion import run_folders
from fedloru.cli.output import Json, print_json


@app.command()
def audit(source: Source = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show how the data is partitioned over clients.

    CONFIG is a TOML file or the name of a preset (default: the demo preset).

    Prints sizes, label skew, the labels of each client, and a hash of the partition. Nothing is trained. For an invalid
    partition, prints all its problems.
    """
    from fedloru.cli.audit_table import show

    show(source, overrides or (), as_json)


@app.command()
def cost(source: Source = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show the bytes that a run would send, without training.

    CONFIG is a TOML file or the name of a preset (default: the demo preset).

    The bytes are computed by the method's formula, and shown by kind and direction, in total and per round, compared
    with FedAvg and, if clients have different profiles, by profile.
    """
    from fedloru.cli.cost_table import show

    show(source, overrides or (), as_json)


@app.command()
def report(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", hidden=True, autocompletion=run_folders)] = None,
    self_contained: Annotated[
        bool,
        typer.Option("--self-contained", help="Embed the plotting script (5 MB): a page to send as a single file."),
    ] = False,
) -> None:
    """Write the HTML report of a run, report.html.

    DIR is a run folder, finished or not (default: the newest in runs/). If clients were scored, the ten that got worse
    most are printed. By default, the page loads its plotting script from a file next to the run folder, which all runs
    there share; if that would be in the working directory, the page embeds it.
    """
    from fedloru.cli.client_table import show
    from fedloru.cli.recent import last
    from fedloru.report import read, write

    path = write(folder or last(), self_contained=self_contained)
    show(read(path.parent))
    typer.echo(f"Report: {path}")


@app.command()
def config(source: Source = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print the complete configuration as TOML.

    CONFIG is a TOML file or the name of a preset (default: the demo preset).

    All defaults are included; keys without a value are omitted.
    """
    from fedloru import config as configs

    chosen = configs.load(source, overrides or ())
    if as_json:
        print_json(configs.dump(chosen))
    else:
        typer.echo(configs.text(chosen), nl=False)


@app.command()
def presets(as_json: Json = False) -> None:
    """List the presets, the configurations that come with fedloru."""
    from fedloru.presets import presets as all_presets

    known = {name: text.splitlines()[0].removeprefix("#").strip() for name, text in all_presets().items()}
    if as_json:
        print_json({"presets": [{"name": name, "about": about} for name, about in known.items()]})
        return
    for name, about in known.items():
        typer.echo(f"{name:<{max(map(len, known))}}  {about}")
