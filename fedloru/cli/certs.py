"""The command ``certs``: a certificate authority, a server certificate and client keys for a federation."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedloru.cli.app import app, check_folder
from fedloru.errors import optional

if TYPE_CHECKING:
    from fedloru.flower.provision import Folder

MEANINGS = {
    "ca.crt": "certificate of the CA: for the server and every client",
    "ca.key": "private key of the CA: for nobody; keep it offline, it signs server certificates",
    "server.crt": "certificate of the server: for the server",
    "server.key": "private key of the server: for the server only",
    ".key": "private key of a client: for this client only",
    ".pub": "public key of a client: for the server, which enrolls it",
}
"""What each file is and who gets it, by its name or ending."""


@app.command()
def certs(
    hosts: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST", help="A host name or IP address of the server; may be repeated."),
    ] = None,
    clients: Annotated[
        list[str] | None, typer.Option("--client", metavar="NAME", help="A client that gets a key; may be repeated.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where to write; existing files are never overwritten.")
    ] = Path("federation"),
    days: Annotated[
        int, typer.Option(min=1, max=3650, metavar="N", help="Number of days that the server certificate is valid.")
    ] = 365,
) -> None:
    """Create the certificates and keys of a federation.

    Creates a certificate authority (CA), a server certificate and client keys, except those that exist: run it again to
    add clients, or a new server certificate once the old one is moved away. The certificate always includes localhost.
    Clients can also make their keys themselves, with ssh-keygen -t ecdsa -b 384. Example: fedloru certs --host
    fl.example.org --client berlin --client paris.
    """
    optional("cryptography", extra="flower", purpose="fedloru certs")
    from fedloru.flower.provision import Folder, provision

    check_folder(folder)
    place = Folder(folder)
    written = provision(place, hosts or [], clients or [], days)
    width = max((len(str(path)) for path in written), default=0)
    for path in written:
        meaning = MEANINGS.get(path.name) if path.parent == folder else None
        typer.echo(f"{path!s:<{width}}  {meaning or MEANINGS[path.suffix]}")
    if not written:
        typer.echo(f"Nothing to create: {folder} has a CA and a server certificate.")
    for line in _advice(place, clients or []):
        typer.echo(line)


def _advice(folder: Folder, clients: list[str]) -> list[str]:
    from fedloru.flower.certificates import read_certificate
    from fedloru.flower.hosts import LOCAL, named

    lines = []
    certificate = read_certificate(folder.server[0])
    names = [str(name.value) for name in named(certificate)]
    end = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    only = "" if set(names) - set(LOCAL) else ", so only for a trial on one machine (other hosts: --host)"
    lines.append(f"The server certificate is for {', '.join(names)}{only}. It is valid until {end}.")
    next_steps = [
        f"fedloru enroll {shlex.quote(str(folder.client(name)[1]))} --name {shlex.quote(name)}" for name in clients
    ]
    where = "" if folder.path == Path("federation") else f" --dir {shlex.quote(str(folder.path))}"
    return [*lines, "Next:", *(f"  {step}" for step in next_steps or [f"fedloru certs{where} --client NAME"])]
