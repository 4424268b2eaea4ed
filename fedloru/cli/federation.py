"""The commands of a server: serve, reverse-proxy, enroll and clients."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from fedloru.cli.app import NewFolder, Overrides, Quiet, Source, app, say
from fedloru.cli.output import Json, console, print_json
from fedloru.errors import ConfigError, counted, optional, quoted

Home = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The federation directory, made by `fedloru certs`.")]
HOME = Path("federation")


@app.command()
def serve(
    source: Source = None,
    overrides: Overrides = None,
    out: NewFolder = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Continue the run in this folder, instead of starting one.")
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Resume with the threads, device and library versions of this machine."),
    ] = False,
    home: Home = HOME,
    host: Annotated[str, typer.Option(metavar="HOST", help="The address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="The port to listen on.")] = 8443,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Listen on 127.0.0.1 without TLS: nginx or Caddy is in front.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the server of a federation: real clients train on their own data.

    CONFIG is a TOML file, or the name of a preset. Its [data] is the server's own: it defines the columns and classes,
    and the model is tested on its test examples. Clients are enrolled with `fedloru enroll`, also while the server
    runs, and connect with `fedloru join`. Ctrl-C saves a checkpoint, then stops; continue with --resume. Example:
    fedloru serve my.toml --port 8443.
    """
    optional("flwr", extra="flower", purpose="fedloru serve")
    from fedloru import api
    from fedloru.cli.training import new_run, train
    from fedloru.flower.serve import Address, finish, serving

    if resume is not None and (source or overrides or out):
        raise ConfigError(
            ["with --resume, the configuration is that of the run: remove CONFIG, --set and --out"], "the command line"
        )
    if accept_changes and resume is None:
        raise ConfigError(["--accept-changes is only for --resume"], "the command line")
    address = Address(host, port, port if behind_proxy else 0, tls=not behind_proxy)
    with ExitStack() as stack:
        chosen = stack.enter_context(new_run(source, overrides, out, quiet)) if resume is None else None
        server = stack.enter_context(serving(home, address))
        where = f"127.0.0.1:{server.port}, behind a proxy" if behind_proxy else f"{host}:{server.port}"
        enrolled = counted(len(server.roster.clients), "client is", "clients are")
        say(f"Listening on {where}; {enrolled} enrolled. Waiting for them to connect.")
        if chosen is not None:
            _note_cohort(chosen.cohort.size, server.federation.clients or 0)
            run = api.start(chosen, server.federation)
        else:
            assert resume is not None
            run = api.resume(resume, accept_changes=accept_changes, federation=server.federation)
        train(run, quiet, as_json)
        finish(run)


def _note_cohort(size: int, enrolled: int) -> None:
    if size > enrolled:
        say(
            f"Note: a round has {enrolled} clients instead of {size} (cohort.size), because no more are enrolled; this "
            "stays so if others are enrolled later"
        )


@app.command("reverse-proxy")
def reverse_proxy(
    name: Annotated[str, typer.Argument(metavar="NAME", hidden=True)],
    host: Annotated[str, typer.Option(metavar="HOST", help="The host name of the server, as clients write it.")],
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="The port that clients connect to.")] = (
        8443
    ),
    upstream_port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="The port of `fedloru serve --behind-proxy`.")
    ] = 8000,
    home: Home = HOME,
) -> None:
    """Print a configuration of nginx or Caddy, for a server that is started with --behind-proxy.

    NAME is nginx or caddy. The configuration forwards only the calls of clients. It names the server certificate in
    the federation directory; use another one if clients trust its CA. Example: fedloru reverse-proxy nginx --host
    fl.example.org, together with fedloru serve my.toml --behind-proxy --port 8000.
    """
    optional("cryptography", extra="flower", purpose="fedloru reverse-proxy")
    from fedloru.flower.provision import Folder
    from fedloru.flower.reverse_proxies import REVERSE_PROXIES
    from fedloru.settings import one_of

    if name not in REVERSE_PROXIES:
        raise ConfigError([f"NAME is {quoted(name)}; expected {one_of(REVERSE_PROXIES)}"], "the command line")
    certificate, key = Folder(home).server
    if not certificate.is_file():
        raise ConfigError([f"there is no {certificate}: create it with `fedloru certs --host {host}`"], "--dir")
    made = REVERSE_PROXIES[name](host, port, upstream_port=upstream_port, certificate=certificate, key=key)
    typer.echo(made, nl=False)


@app.command()
def enroll(
    key: Annotated[Path, typer.Argument(metavar="KEY.pub", hidden=True)],
    name: Annotated[str, typer.Option(metavar="NAME", help="The name of the client, on pages and in messages.")],
    max_examples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The most training examples that the client may state.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the client: it is refused from now on.")] = False,
    home: Home = HOME,
) -> None:
    """Enroll a client in a federation under a name, by its public key.

    KEY.pub is the file with the public key, in OpenSSH format. A running server accepts the client at once. Example:
    fedloru enroll berlin.pub --name berlin.
    """
    optional("cryptography", extra="flower", purpose="fedloru enroll")
    from fedloru.flower.keys import public_line, read_public_key
    from fedloru.flower.roster import Roster

    roster, line = Roster(home), public_line(read_public_key(key))
    if remove:
        roster.remove(name, line)
        typer.echo(f"Removed {name}.")
        return
    index = roster.enroll(name, line, max_examples)
    typer.echo(f"Enrolled {name} as client {index} of the federation in {home}.")


@app.command()
def clients(home: Home = HOME, as_json: Json = False) -> None:
    """List the clients of a federation: who is connected, and what the server last saw of each.

    Times are in UTC. The table has the version of the base that a client holds, the last round in which its reply was
    used, the bytes of its messages in all runs, and, as its score, the accuracy on its own test examples. Below it is
    why a client does not take part, or why its last reply was not used.
    """
    optional("flwr", extra="flower", purpose="fedloru clients")
    from fedloru.flower.listing import listing, problems
    from fedloru.flower.roster import Roster
    from fedloru.flower.serve import running

    roster = Roster(home)
    if not roster.clients:
        raise ConfigError(
            [f"no client is enrolled in {home}: use `fedloru enroll KEY.pub --name NAME`"], "the federation"
        )
    seen, online = roster.seen(), running(home)
    listed = listing(roster.clients, seen, online)
    if as_json:
        print_json({"running": online, "clients": listed.json()})
        return
    if not online:
        say("The server is not running. This is what it last saw:")
    out = console()
    out.print(listed.table())
    for problem in problems(roster.clients, seen):
        out.print(problem, markup=False, highlight=False)
