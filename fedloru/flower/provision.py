"""The certificates and keys of a federation, in one folder.

::

    ca.crt   ca.key              the certificate authority
    server.crt   server.key      the server
    clients/berlin.key  .pub     the client berlin
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedloru.errors import CredentialError, quoted
from fedloru.flower import certificates, hosts, keys

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Folder(NamedTuple):
    """Where the certificates and keys of a federation are."""

    path: Path

    @property
    def ca(self) -> tuple[Path, Path]:
        """The certificate and the private key of the CA."""
        return self.path / "ca.crt", self.path / "ca.key"

    @property
    def server(self) -> tuple[Path, Path]:
        """The certificate and the private key of the server."""
        return self.path / "server.crt", self.path / "server.key"

    def client(self, name: str) -> tuple[Path, Path]:
        """Return the private and the public key of a client."""
        return self.path / "clients" / f"{name}.key", self.path / "clients" / f"{name}.pub"


def provision(
    folder: Folder, host_names: Sequence[str], clients: Sequence[str], days: int = certificates.DAYS
) -> list[Path]:
    """Create what is missing in a folder, and return the new files; existing files stay as they are.

    Args:
        folder: where to write.
        host_names: the hosts of the server's certificate; [] keeps an existing certificate, or else means this machine.
        clients: the names of new clients.
        days: the number of days for which the server's certificate is valid.

    Raises:
        CredentialError: a name or host is invalid, a file would be overwritten, or one of a pair of files is missing.
        OSError: the folder is not writable.
    """
    _check(folder, host_names, clients)
    new_server = bool(host_names) or not _exists(folder.server)
    authority = server = None
    new_ca = not _exists(folder.ca)
    if new_ca:
        authority = certificates.create_ca()
    elif new_server:
        authority = certificates.read_identity(*folder.ca)
    if new_server:
        assert authority is not None
        server = certificates.create_server(authority, host_names, days)
    (folder.path / "clients" if clients else folder.path).mkdir(mode=0o700, parents=True, exist_ok=True)
    written: list[Path] = []
    for new, identity, files in ((new_ca, authority, folder.ca), (new_server, server, folder.server)):
        if new and identity is not None:
            certificates.write_identity(identity, *files)
            written += files
    for name in clients:
        keys.write_client_key(*folder.client(name), name)
        written += folder.client(name)
    return written


def _check(folder: Folder, host_names: Sequence[str], clients: Sequence[str]) -> None:
    """Check names, hosts and existing files before anything is written."""
    hosts.alternatives(host_names)
    for name in clients:
        if not _NAME.fullmatch(name):
            raise CredentialError(
                f"{quoted(name)} cannot be the name of a client: expected up to 64 letters, digits, '.', '-' and '_'"
            )
    if repeated := sorted({name for name in clients if [other.lower() for other in clients].count(name.lower()) > 1}):
        raise CredentialError(f"clients have different names, but {' and '.join(map(quoted, repeated))} are the same")
    if host_names and _exists(folder.server):
        raise _kept(folder.server[0])
    for name in clients:
        for path in folder.client(name):
            if path.exists():
                raise _kept(path)
    # To add clients, the private keys of the CA and the server are not needed, and may be kept elsewhere.
    for certificate, key in (folder.ca, folder.server):
        if key.exists() and not certificate.exists():
            raise CredentialError(f"{key} exists, but {certificate} does not: restore it, or move the key away")


def _exists(files: tuple[Path, Path]) -> bool:
    return any(path.exists() for path in files)


def _kept(path: Path) -> CredentialError:
    return CredentialError(f"{path} exists already, and is never overwritten: move it away first, with its pair")
