"""The server of a federation: Flower's SuperLink on loopback, TLS in front of it, and the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from fedloru import api
from fedloru.errors import ConfigError
from fedloru.flower.carrier import FlowerCarrier
from fedloru.flower.certificates import check_server
from fedloru.flower.federate import carrier
from fedloru.flower.provision import Folder
from fedloru.flower.proxy import Proxy
from fedloru.flower.roster import Roster
from fedloru.flower.superlink import SuperLink
from fedloru.flower.superlink_grid import SuperLinkGrid
from fedloru.reported_run import ReportedRun
from fedloru.run.lock import alone, in_use

SERVER = "server"
"""The folder of the server's database in the federation directory."""
GOODBYE_SECONDS = 60.0
"""How long the server waits at the end for clients that are busy; a client that does not hear of it keeps trying."""


class Address(NamedTuple):
    """Where clients connect, and where Flower listens on loopback; port 0 is any free port.

    If ``tls`` is not set, another program is in front of Flower.
    """

    host: str
    port: int
    upstream_port: int = 0
    tls: bool = True


class Server(NamedTuple):
    """A running server: the port that clients connect to, the enrolled clients, and what a run needs."""

    port: int
    roster: Roster
    federation: api.Participants
    proxy: Proxy | None


@contextmanager
def serving(home: Path, address: Address, check: Callable[[], None] = lambda: None) -> Iterator[Server]:
    """Run a server for the clients that are enrolled in the federation directory ``home``.

    ``check`` is called while the server waits, and may raise an error.

    Raises:
        ConfigError: no client is enrolled.
        CredentialError: the certificate has expired, or does not belong to the key or the CA.
        RunFolderError: another server uses the directory.
        FedloruError: a port cannot be used.
    """
    roster, files = Roster(home), Folder(home)
    if not any(not client.removed for client in roster.clients):
        raise ConfigError(
            [f"no client is enrolled in {home}: create keys with `fedloru certs`, then `fedloru enroll`"], "the server"
        )
    certificate, key = files.server
    if address.tls:
        check_server(certificate, key, files.ca[0])
    database = home / SERVER
    database.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(alone(database))
        link = stack.enter_context(SuperLink(roster, database, address.upstream_port))
        proxy = None
        if address.tls:
            made = Proxy(address.host, address.port, upstream_port=link.port, certificate=certificate, key=key)
            proxy = stack.enter_context(made)
        grid = stack.enter_context(SuperLinkGrid(link))
        federation = api.Participants(
            len(roster.clients), lambda config: carrier(config, roster, grid, link.who, check=check)
        )
        yield Server(proxy.port if proxy else link.port, roster, federation, proxy)


def running(home: Path) -> bool:
    """Return whether a server uses the federation directory ``home``, or may use it: another user cannot tell."""
    return (home / SERVER).is_dir() and in_use(home / SERVER)


def finish(run: ReportedRun) -> None:
    """Tell the clients that the federation has finished."""
    if isinstance(run.carrier, FlowerCarrier):
        done = f"The federation has finished after {run.state.round} rounds."
        run.carrier.guests.dismiss(done, finished=True, seconds=GOODBYE_SECONDS)
