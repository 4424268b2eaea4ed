"""The command of a client: join."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fedloru.cli.app import app, say
from fedloru.errors import ConfigError, optional


@app.command()
def join(
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="The address of the server.")],
    ca: Annotated[Path, typer.Option(metavar="FILE", help="The certificate of the CA, ca.crt, from the operator.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="The private key of this client.")],
    data: Annotated[
        Path,
        typer.Option(metavar="PATH", help="The data, read like the server's; or a TOML file with its own [data]."),
    ],
    state: Annotated[Path, typer.Option(metavar="DIR", help="The state directory, which only this client uses.")],
    part: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Use only part N of the [partition] in the TOML file, for trials."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The folder of the language model on this machine.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="The torch device on which to train.")] = "cpu",
    warm: Annotated[
        bool, typer.Option("--warm", help="Keep the model in memory, instead of a new process for each request.")
    ] = False,
    share_scores: Annotated[
        bool, typer.Option("--share-scores", help="Report scores on this client's own test examples.")
    ] = False,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Refuse rounds with more than N local epochs.")
    ] = None,
    max_rounds: Annotated[int | None, typer.Option(min=1, metavar="N", help="Train in at most N rounds.")] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option("--max-bytes-per-day", min=1, metavar="N", help="Exchange at most N bytes per day (UTC)."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="python:NAME", help="A function of this machine that the server may use; may be repeated."
        ),
    ] = None,
    remote_code: Annotated[
        bool, typer.Option("--allow-remote-code", help="Allow a model that runs its own code.")
    ] = False,
) -> None:
    """Take part in a federation, with data that stays on this machine.

    Runs until the federation has finished, and connects again whenever the connection is lost. Example: fedloru join
    --server fl.example.org:8443 --ca ca.crt --key berlin.key --data scans/ --state state.
    """
    optional("flwr", extra="flower", purpose="fedloru join")
    from fedloru.flower import join as joining
    from fedloru.flower.client_app import in_process
    from fedloru.flower.hosts import address
    from fedloru.flower.keys import read_private_key
    from fedloru.flower.member import Member
    from fedloru.flower.node import Place
    from fedloru.flower.once import in_new_process
    from fedloru.flower.site import Source
    from fedloru.flower.state import StateFolder
    from fedloru.flower.terms import Terms

    if part is not None and data.suffix != ".toml":
        raise ConfigError([f"--part needs --data FILE.toml, with a section [partition], but it is {data}"], "--part")
    if not data.exists():
        raise ConfigError([f"there is no file or folder {data}"], "--data")
    place = Place(*address(server), ca, read_private_key(key))
    source = Source(data, part, model, device)
    terms = Terms(max_epochs, max_rounds, max_bytes, tuple(allow or ()), remote_code, share_scores)
    folder = StateFolder(state)
    respond = in_process(Member(folder, source, terms)) if warm else in_new_process(state, source, terms)
    joining.join(place, folder, respond, say, time.sleep)
