"""The command that lists the methods, with what each trains, sends and aggregates: methods."""

from __future__ import annotations

from fedloru.cli.app import Overrides, Source, app
from fedloru.cli.output import Json


@app.command()
def methods(source: Source = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """List the methods, and the bytes that each would send.

    CONFIG is a TOML file or the name of a preset (default: the demo preset).

    The bytes are those of one client in one round, for the configured model and ranks, if the client takes part in
    every round. They are computed by the method's formula and include the increments of methods that merge every round.
    The configured method has its settings, all others their defaults. If clients have different profiles
    (lowrank.capacities), the mean over a cohort with a client of every profile is shown, then each profile.
    """
    from fedloru.cli.methods_table import show

    show(source, overrides or (), as_json)
