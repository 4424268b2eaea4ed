"""The commands that try out a federation on this machine: try and simulate."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fedloru.cli.app import NewFolder, Overrides, Quiet, Source, app, say
from fedloru.cli.output import Json
from fedloru.errors import optional

DIGITS = "digits"
"""The preset of the shortest trial."""


@app.command("try")
def try_(
    source: Source = None,
    overrides: Overrides = None,
    clients: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="The number of clients.")] = 3,
    out: NewFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Try out a whole federation on this machine: a server, clients in their own processes, TLS and keys.

    CONFIG is a TOML file, or the name of a preset (default: digits). Its data is partitioned among the clients as in a
    simulation. The certificates and keys are made for the trial and removed after it; the run folder, with the page and
    the logs of the clients, stays. Example: fedloru try digits --clients 3.
    """
    optional("flwr", extra="flower", purpose="fedloru try")
    from fedloru import api, config
    from fedloru.cli.training import new_run, train
    from fedloru.flower import trial
    from fedloru.flower.serve import Address, finish, serving

    everybody = [f"cohort.size={clients}", *(overrides or ()), f"partition.clients={clients}"]
    with (
        new_run(source or DIGITS, everybody, out, quiet) as chosen,
        tempfile.TemporaryDirectory(prefix="fedloru-") as temporary,
    ):
        chosen = chosen._replace(federation=chosen.federation.model_copy(update={"clients": clients}))
        home = Path(temporary)
        file = home / "config.toml"
        file.write_text(config.text(chosen), "utf-8")
        names = trial.prepare(home, clients)
        processes = trial.Clients()
        with serving(home, Address(trial.LOCAL, 0), processes.check) as server:
            run = api.start(chosen, server.federation)
            assert run.folder is not None
            logs = run.folder.path / "logs"
            say(f"The server listens on {trial.LOCAL}:{server.port}; starting {clients} clients, who log to {logs}.")
            with processes.started(home, file, server.port, logs, names):
                train(run, quiet, as_json)
                finish(run)


@app.command()
def simulate(
    source: Source = None,
    overrides: Overrides = None,
    out: NewFolder = None,
    federation: Annotated[
        bool, typer.Option("--federation", help="Use the server and the clients of a federation, in this process.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model on simulated clients, like run; with --federation, by the code of real servers and clients.

    CONFIG is a TOML file, or the name of a preset. A federation in one process is slower than a simulation, and gives
    the same model. Example: fedloru simulate my.toml --federation.
    """
    from fedloru import api, config
    from fedloru.cli.training import new_run, train

    with new_run(source, overrides, out, quiet) as chosen:
        if not federation:
            train(api.start(chosen), quiet, as_json)
            return
        optional("flwr", extra="flower", purpose="fedloru simulate --federation")
        from fedloru.flower.federate import local

        chosen = chosen._replace(engine=chosen.engine.model_copy(update={"name": "sequential"}))  # to resume it as such
        with tempfile.TemporaryDirectory(prefix="fedloru-") as temporary:
            file = Path(temporary, "config.toml")
            file.write_text(config.text(chosen), "utf-8")
            train(api.start(chosen, local(chosen, file, Path(temporary))), quiet, as_json)
