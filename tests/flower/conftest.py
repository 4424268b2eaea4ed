from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx

    from fedloru.flower.provision import Folder
    from fedloru.flower.proxy import Proxy

collect_ignore_glob = [] if all(map(find_spec, ("flwr", "cryptography", "uvicorn", "httpx"))) else ["test_*.py"]
"""The modules here import the libraries of the extra flower, which the extra dev brings."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("flower")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Certificates for localhost, and the keys of the client berlin."""
    from fedloru.flower.provision import Folder, provision

    place = Folder(tmp_path_factory.mktemp("federation"))
    provision(place, [], ["berlin"])
    return place


class Upstream:
    """A server in the place of Flower's: it records each request, and answers with its body."""

    def __init__(self) -> None:
        self.port = 0
        self.reset()

    def reset(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer: list[bytes] | None = None
        self.pause = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.requests.append({**scope, "headers": dict(scope["headers"]), "body": body})
        await asyncio.sleep(self.pause)
        headers = [(b"content-type", b"application/x-protobuf"), (b"keep-alive", b"1"), (b"x-kept", b"yes")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in [body] if self.answer is None else self.answer:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})


@pytest.fixture(scope="session")
def _upstream() -> Iterator[Upstream]:
    import uvicorn

    application = Upstream()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off", ws="none", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    application.port = listener.getsockname()[1]
    yield application
    server.should_exit = True
    thread.join(10)
    listener.close()


@pytest.fixture
def upstream(_upstream: Upstream) -> Upstream:
    _upstream.reset()
    return _upstream


def proxy(folder: Folder, port: int, **limits: Any) -> Proxy:
    from fedloru.flower.proxy import Limits, Proxy

    certificate, key = folder.server
    return Proxy("127.0.0.1", 0, upstream_port=port, certificate=certificate, key=key, limits=Limits(**limits))


@pytest.fixture(scope="session")
def _shared(folder: Folder, _upstream: Upstream) -> Iterator[Proxy]:
    with proxy(folder, _upstream.port) as started:
        yield started


@pytest.fixture
def proxied(folder: Folder, upstream: Upstream, _shared: Proxy) -> Iterator[Callable[..., Proxy]]:
    """Return a function that starts a proxy with the given limits; without any, it is shared by the tests."""
    from fedloru.flower.forward import Traffic

    with ExitStack() as stack:

        def start(port: int | None = None, **limits: Any) -> Proxy:
            if port is None and not limits:
                vars(_shared.traffic).update(vars(Traffic()))
                return _shared
            return stack.enter_context(proxy(folder, upstream.port if port is None else port, **limits))

        yield start


@pytest.fixture
def client(folder: Folder) -> Iterator[Callable[[Proxy], httpx.Client]]:
    import httpx

    clients: list[httpx.Client] = []

    def connect(proxy: Proxy) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(folder.ca[0]))
        clients.append(httpx.Client(base_url=f"https://127.0.0.1:{proxy.port}", verify=context, trust_env=False))
        return clients[-1]

    yield connect
    for one in clients:
        one.close()


@pytest.fixture
def raw(folder: Folder) -> Callable[..., bytes]:
    """Return a function that sends bytes over TLS and returns what comes back until the connection is closed."""

    def exchange(proxy: Proxy, *pieces: bytes, pause: float = 0.0, seconds: float = 10.0) -> bytes:
        context = ssl.create_default_context(cafile=str(folder.ca[0]))
        answer, end = b"", time.monotonic() + seconds
        with (
            socket.create_connection(("127.0.0.1", proxy.port), seconds) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as secure,
        ):
            try:
                for piece in pieces:
                    secure.sendall(piece)
                    time.sleep(pause)
                while piece := secure.recv(65536):
                    answer += piece
                    assert time.monotonic() < end, "the connection stays open"
            except (ConnectionError, ssl.SSLError):
                pass  # closed in the middle
        return answer

    return exchange
