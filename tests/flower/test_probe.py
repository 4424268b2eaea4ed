"""Each reason for which a client cannot use a server is a sentence."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import format_datetime
from pathlib import Path

import pytest

from fedloru.errors import CredentialError, FedloruError, UnreachableError
from fedloru.flower import certificates
from fedloru.flower.certificates import create_server, read_identity, write_identity
from fedloru.flower.probe import check_reachable
from fedloru.flower.provision import Folder, provision
from fedloru.flower.proxy import Proxy

NOW = dt.datetime.now(dt.UTC)


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Answer one connection in a thread; yields the port."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


@contextmanager
def serving(certificate: Path, key: Path, date: str = "") -> Iterator[int]:
    """Answer one connection over TLS, with the given time in the header Date."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(1000)
            secure.sendall(f"HTTP/1.1 404 Not Found\r\n{date}\r\n".encode())

    with listening(answer) as port:
        yield port


def test_the_proxy_is_reachable(proxied: Callable[..., Proxy], folder: Folder) -> None:
    for host in ("localhost", "LOCALHOST.", "127.0.0.1"):
        check_reachable(host, proxied().port, folder.ca[0])


def test_another_ca(proxied: Callable[..., Proxy], tmp_path: Path) -> None:
    provision(Folder(tmp_path), [], [])
    with pytest.raises(CredentialError, match=r"is not signed by the CA in .*ask the operator"):
        check_reachable("127.0.0.1", proxied().port, tmp_path / "ca.crt")


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_an_unusable_ca_file(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "ca").write_bytes(content)
    with pytest.raises(CredentialError, match=r"ca\b.*expected a certificate"):
        check_reachable("127.0.0.1", 1, tmp_path / "ca")


def test_another_host(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedloru.flower.hosts.LOCAL", ("fl.example.org",))
    crt, key = tmp_path / "crt", tmp_path / "key"
    write_identity(create_server(read_identity(*folder.ca), []), crt, key)
    for host in ("localhost", "127.0.0.1"):
        with serving(crt, key) as port, pytest.raises(CredentialError, match=f"for another host than {host}"):
            check_reachable(host, port, folder.ca[0])


@pytest.mark.parametrize(("day", "message"), [(-30, "has expired: the clock"), (30, "is not valid yet: the clock")])
def test_expired_and_not_valid_yet(
    day: int, message: str, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, crt, key = read_identity(*folder.ca), tmp_path / "crt", tmp_path / "key"
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "_now", lambda: NOW + dt.timedelta(days=day))
        patch.setattr(certificates, "_inside", lambda *_: True)
        write_identity(create_server(ca, [], days=1), crt, key)
    with serving(crt, key) as port, pytest.raises(CredentialError, match=message):
        check_reachable("localhost", port, folder.ca[0])


@pytest.mark.parametrize(("seconds", "agrees"), [(0, True), (200, True), (-3, True), (400, False), (-60, False)])
def test_clocks(seconds: int, agrees: bool, folder: Folder) -> None:
    """``seconds``: by how much the server is ahead of this machine."""
    theirs = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    with serving(*folder.server, date=f"Date: {format_datetime(theirs, usegmt=True)}\r\n") as port:
        if agrees:
            check_reachable("localhost", port, folder.ca[0])
        else:
            with pytest.raises(FedloruError, match=r"the clocks differ: this machine says .* Set the wrong one"):
                check_reachable("localhost", port, folder.ca[0])


@pytest.mark.parametrize("date", ["", "Date: yesterday\r\n", "Date: \r\n", "Date: Mon, 99 Foo 2026 25:00:00\r\n"])
def test_a_server_without_a_clock_is_not_refused(date: str, folder: Folder) -> None:
    with serving(*folder.server, date=date) as port:
        check_reachable("localhost", port, folder.ca[0])


@pytest.mark.parametrize("text", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x15\x03\x01"])
def test_plain_text(text: bytes, folder: Folder) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(text)

    with listening(answer) as port, pytest.raises(FedloruError, match=f"127.0.0.1:{port} does not speak TLS"):
        check_reachable("127.0.0.1", port, folder.ca[0])


def test_a_server_that_is_silent(folder: Folder) -> None:
    start = time.monotonic()
    with listening(lambda _: time.sleep(1)) as port, pytest.raises(UnreachableError, match=r"did not answer in 0.5 s"):
        check_reachable("127.0.0.1", port, folder.ca[0], timeout=0.5)
    assert time.monotonic() - start < 5


def test_nothing_listens(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UnreachableError, match=f"cannot connect to the server at 127.0.0.1:{port}: Connection refused"):
        check_reachable("127.0.0.1", port, folder.ca[0])


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 1), ("127.0.0.1", 70000), ("a" * 70, 1), ("", 1)])
def test_addresses_that_are_none(host: str, port: int, folder: Folder) -> None:
    with pytest.raises(FedloruError, match=r"no address|not a port|cannot name the host"):
        check_reachable(host, port, folder.ca[0], timeout=5)
