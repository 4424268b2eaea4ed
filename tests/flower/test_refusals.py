"""What servers and clients refuse: each is a sentence and exit code 2, over the real connection."""

from __future__ import annotations

import datetime as dt
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fedloru.flower import certificates, hosts, probe, protocol
from fedloru.flower import join as joining
from fedloru.flower.certificates import create_server, read_identity, write_identity
from fedloru.flower.keys import write_client_key
from fedloru.flower.provision import Folder, provision
from fedloru.flower.proxy import Proxy
from fedloru.flower.roster import Roster
from fedloru.flower.superlink import SuperLink
from tests.flower.processes import Ground, free_port, ground

TRIAL = """
rounds = 3
[data]
source = "npz"
path = "{path}"
[model]
name = "mlp"
[lowrank]
rank = 2
[method]
name = "fedloru"
tau = 2
[cohort]
size = 2
[federation]
clients = 2
"""


def data(path: Path, features: int = 4, classes: int = 3) -> Path:
    """Write examples of ``features`` features, with integer labels."""
    rng = np.random.default_rng(1)
    np.savez(path, x=rng.normal(size=(60, features)), y=np.arange(60) % classes)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A server that waits for its second client, whose state directory and key ``berlin`` uses."""
    with ground(tmp_path_factory.mktemp("refusals")) as made:
        path = data(made.folder / "data.npz")
        (made.folder / "trial.toml").write_text(TRIAL.format(path=path))
        made.enroll("berlin", "paris")
        server = made.serve()
        made.join("berlin", "--warm", data=path).says("Accepted the terms")
        yield made
        assert server.process.poll() is None, server.text
        server.signal(signal.SIGTERM)
        assert "No round was saved" in server.ends(130)


@pytest.fixture
def join(place: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that joins as paris in this process, and returns why that is refused."""
    monkeypatch.setattr(joining, "OTHER", 0.5)

    def refused(**options: Any) -> str:
        usual = {
            "server": f"localhost:{place.port}",
            "ca": place.home / "ca.crt",
            "key": place.home / "clients" / "paris.key",
            "data": place.folder / "data.npz",
            "state": tmp_path / "state",
        }
        given = [(f"--{key}", value) for key, value in (usual | options).items()]
        text = place.cli("join", "--warm", *(part for pair in given for part in pair), code=2)
        assert "Traceback" not in text
        return " ".join(text.split())

    return refused


def said(place: Ground, text: str) -> None:
    """Assert that the server says a text, too."""
    place.children[0].says(text)


def test_keys(join: Any, place: Ground, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.key"
    garbage.write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    assert "garbage.key" in join(key=garbage)
    assert "none.key" in join(key=tmp_path / "none.key")
    assert "paris.pub" in join(key=place.home / "clients" / "paris.pub")
    write_client_key(tmp_path / "new.key", tmp_path / "new.pub", "new")
    assert "its key is not enrolled" in join(key=tmp_path / "new.key")


def test_another_client_with_the_key(join: Any, place: Ground) -> None:
    assert "another client with the same key is connected" in join(key=place.home / "clients" / "berlin.key")
    assert place.children[1].process.poll() is None


def test_another_client_with_the_state_directory(join: Any, place: Ground) -> None:
    assert "is in use: process" in join(state=place.folder / "state" / "berlin")


def test_certificates(join: Any, place: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Folder(tmp_path / "other")
    provision(other, [], [])
    assert "is not signed by the CA" in join(ca=other.ca[0])
    assert "ca.key" in join(ca=place.home / "ca.key")
    old, now = Folder(tmp_path / "old"), dt.datetime.now(dt.UTC)
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "_now", lambda: now - dt.timedelta(days=30))
        provision(old, [], [], days=1)
    with Proxy("127.0.0.1", 0, upstream_port=1, certificate=old.server[0], key=old.server[1]) as proxy:
        assert "has expired" in join(server=f"127.0.0.1:{proxy.port}", ca=old.ca[0])
    crt, key = tmp_path / "elsewhere.crt", tmp_path / "elsewhere.key"
    with monkeypatch.context() as patch:
        patch.setattr(hosts, "LOCAL", ())
        write_identity(create_server(read_identity(*Folder(place.home).ca), ["fl.example.org"]), crt, key)
    with Proxy("127.0.0.1", 0, upstream_port=1, certificate=crt, key=key) as proxy:
        assert "is for another host than 127.0.0.1" in join(server=f"127.0.0.1:{proxy.port}")


def test_a_server_without_tls(join: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert "does not speak TLS" in join(server=f"localhost:{listener.getsockname()[1]}")
        thread.join(5)


def test_a_client_without_tls(place: Ground) -> None:
    with socket.create_connection(("localhost", place.port), 10) as connection:
        connection.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        with suppress(ConnectionResetError):
            assert b"200" not in connection.recv(1000)


@pytest.mark.parametrize("name", ["fedloru", "flwr"])
def test_another_version_in_the_terms(name: str, join: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = protocol.version
    monkeypatch.setattr(protocol, "version", lambda each: "0.99.0" if each == name else found(each))
    assert f"the server runs {name} {found(name)} instead of 0.99.0" in join()


@pytest.mark.parametrize(("seconds", "agrees"), [(60, False), (-3600, False), (-60, True)])
def test_clocks(
    seconds: int, agrees: bool, join: Any, place: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return dt.datetime.now(tz) + dt.timedelta(seconds=seconds)

    class Module:
        datetime, UTC, timedelta = Clock, dt.UTC, dt.timedelta

    monkeypatch.setattr(probe, "dt", Module)
    other = data(tmp_path / "five.npz", features=5)  # refused later, so that this ends
    assert ("the clocks differ" in join(data=other)) != agrees


def test_data_of_another_kind(join: Any, place: Ground, tmp_path: Path) -> None:
    assert "'x' of shape (4,)" in join(data=data(tmp_path / "five.npz", features=5))
    said(place, "paris does not take part: the examples of this client have")
    text = join(data=data(tmp_path / "classes.npz", classes=4), state=tmp_path / "again")
    assert "has the classes '3', which the server does not have" in text
    said(place, "paris does not take part: the data of this client has the classes")
    assert "there is no file or folder" in join(data=tmp_path / "none.npz")


def announced(place: Ground, route: str, size: int) -> int:
    """Return the status of the answer to the headers of a request with a body of ``size`` bytes."""
    context = ssl.create_default_context(cafile=str(place.home / "ca.crt"))
    connection = HTTPSConnection("localhost", place.port, timeout=10, context=context)
    with closing(connection):
        connection.putrequest("POST", f"/v1/fleet/{route}")
        connection.putheader("content-length", str(size))
        connection.endheaders()
        return connection.getresponse().status


def test_routes_and_sizes(place: Ground) -> None:
    paths = ("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/push-messages", "/", "/v1/fleet/x")
    with httpx.Client(verify=str(place.home / "ca.crt"), base_url=f"https://localhost:{place.port}") as client:
        for path in paths:
            assert client.post(path, content=b"").status_code == 404
        for route, size in (("push-object", 2**30), ("activate-node", 2**40), ("pull-messages", 17 * 2**20)):
            assert announced(place, route, size) == 413
        assert client.post("/v1/fleet/pull-messages", content=b"\xff" * 100).status_code in range(400, 500)
        assert client.post("/v1/fleet/pull-messages", content=b"").status_code in range(400, 500)


def test_routes_on_loopback(tmp_path: Path) -> None:
    """Other users of the server's machine can start nothing either; a stranger's key is refused there as well."""
    with SuperLink(Roster(tmp_path), tmp_path) as link:
        for path in ("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/push-messages", "/docs"):
            assert httpx.post(f"http://127.0.0.1:{link.port}{path}", content=b"").status_code == 404
        for name in ("activate-node", "push-messages", "push-object", "register-node"):
            assert httpx.post(f"http://127.0.0.1:{link.port}/v1/fleet/{name}", content=b"").status_code >= 400


def test_servers(place: Ground, tmp_path: Path) -> None:
    def serve(*args: object) -> str:
        text = " ".join(place.cli("serve", *args, code=2).split())
        assert "Traceback" not in text
        return text

    trial, empty = place.folder / "trial.toml", tmp_path / "empty"
    assert "no client is enrolled" in serve(trial, "--dir", empty)
    empty.mkdir()
    assert "no client is enrolled" in serve(trial, "--dir", empty)
    assert "is in use: process" in serve(trial, "--dir", place.home, "--port", free_port())

    second = Ground(tmp_path / "second")
    second.folder.mkdir()
    second.enroll("berlin")
    here = ("--dir", second.home, "--host", "localhost")
    assert "cannot listen on localhost" in serve(trial, *here, "--port", place.port)
    assert "exists" in serve(trial, "--out", place.run, *here, "--port", 0)
    assert "is in use" in serve("--resume", place.run, *here, "--port", 0)


def test_a_server_that_is_not_reachable(place: Ground, tmp_path: Path) -> None:
    client = place.join("nobody", "--warm", key=place.home / "clients" / "paris.key", server=f"localhost:{free_port()}")
    client.says("cannot connect .* trying again in 1 s")
    client.says("trying again in 2 s")
    client.signal(signal.SIGTERM)
    assert client.ends(130).endswith("Stopped.")
