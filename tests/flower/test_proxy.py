"""The proxy forwards the calls of clients and nothing else, and bounds what a client can use."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from fedloru.errors import CredentialError, FedloruError
from fedloru.flower.proxy import Proxy
from fedloru.flower.routes import FLEET, PREFIX

PULL = "/v1/fleet/pull-messages"
Start = Callable[..., Proxy]
Connect = Callable[[Proxy], httpx.Client]
Raw = Callable[..., bytes]


def request(target: str, method: str = "POST", *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: fl", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_the_routes_are_those_of_flower() -> None:
    from flwr.superlink.routers.fleet.router import router

    assert {(route.path, *route.methods) for route in router.routes} == {(PREFIX + name, "POST") for name in FLEET}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FLEET)
def test_forwards_every_call_of_a_client(name: str, proxied: Start, client: Connect, upstream: Any) -> None:
    answer = client(proxied()).post(PREFIX + name, content=b"message")
    assert (answer.status_code, answer.content) == (200, b"message")
    assert upstream.requests[0]["path"] == PREFIX + name


def test_streams_and_counts_large_bodies(proxied: Start, client: Connect) -> None:
    proxy, body = proxied(), bytes(range(256)) * 2**14
    assert client(proxy).post(PULL, content=body).content == body
    assert client(proxy).post(PULL, content=iter([body[:70000], body[70000:]])).content == body  # chunked
    assert (proxy.traffic.received, proxy.traffic.sent) == (2 * len(body), 2 * len(body))
    assert (proxy.traffic.forwarded, proxy.traffic.refused) == (2, 0)


def test_replies_do_not_wait_for_acknowledgements(proxied: Start, client: Connect) -> None:
    connection, seconds = client(proxied()), []
    for _ in range(20):
        start = time.perf_counter()
        connection.post(PULL, content=b"x")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.035  # a delayed acknowledgement takes 40 ms, in every request


def test_keeps_end_to_end_headers_only(proxied: Start, client: Connect, upstream: Any) -> None:
    sent = {"x-auth": "1", "connection": "keep-alive, x-hop", "x-hop": "1", "te": "trailers", "cookie": "a=b"}
    forged = {"x-forwarded-for": "10.1.1.1", "x-real-ip": "10.1.1.1", "upgrade": "h2c", "proxy-authorization": "x"}
    answer = client(proxied()).post(PULL, content=b"x", headers=sent | forged)
    headers = upstream.requests[0]["headers"]
    assert headers[b"x-auth"] == b"1" and headers[b"x-forwarded-for"] == b"127.0.0.1"
    assert not {b"x-hop", b"te", b"cookie", b"x-real-ip", b"upgrade", b"proxy-authorization"} & headers.keys()
    assert answer.headers["x-kept"] == "yes" and "keep-alive" not in answer.headers
    assert "server" not in answer.headers and len(answer.headers.get_list("date")) == 1


TRICKS = [
    "/",
    "/v1/control/start-run",
    "/v1/runtime/acquire-task",
    "/v1/fleet/../control/start-run",
    "/v1/fleet/%2e%2e/control/start-run",
    "/v1/fleet/..%2fcontrol%2fstart-run",
    "/v1/fleet/pull-messages/../../control/start-run",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages;x",
    "/v1/fleet/pull-messages?x=/v1/control",
    "/v1/fleet/pull-messages%00",
    "/v1/fleet/pull%2dmessages",
    "/v1//fleet/pull-messages",
    "//v1/fleet/pull-messages",
    "/V1/fleet/pull-messages",
    "/v1/fleet/",
    "/v1/fleet",
    "/./v1/fleet/pull-messages",
    "/v1/fleet\\..\\control",
    "http://127.0.0.1/v1/fleet/pull-messages",
    "http://127.0.0.1/v1/control/start-run",
    "*",
    "/docs",
    "/openapi.json",
    "/health",
]


@pytest.mark.parametrize("target", TRICKS)
def test_refuses_every_other_target(target: str, proxied: Start, raw: Raw, upstream: Any) -> None:
    answer = raw(proxied(), request(target))
    assert status(answer) in (400, 404) and upstream.requests == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "post"])
def test_refuses_other_methods(method: str, proxied: Start, raw: Raw, upstream: Any) -> None:
    assert status(raw(proxied(), request(PULL, method))) == 405 and upstream.requests == []


@pytest.mark.parametrize(
    "sent",
    [
        b"CONNECT 127.0.0.1:8000 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/control/x HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\n\r\n",  # no length
        b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0",
        b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /v1/fleet/get-run\r\n\r\n",
        b"\x00\xff" * 50 + b"\r\n\r\n",
    ],
)
def test_refuses_malformed_requests(sent: bytes, proxied: Start, raw: Raw, upstream: Any) -> None:
    assert 400 <= status(raw(proxied(), sent)) < 502 and upstream.requests == []


def test_a_second_request_on_a_connection_is_checked_too(proxied: Start, raw: Raw, upstream: Any) -> None:
    answer = raw(proxied(), request(PULL, body=b"first") + request("/v1/control/start-run", body=b"second"))
    assert answer.count(b"HTTP/1.1") == 2 and b"404" in answer.split(b"HTTP/1.1")[2]
    assert [one["body"] for one in upstream.requests] == [b"first"]


def test_refusals_have_no_body_and_close(proxied: Start, raw: Raw) -> None:
    proxy = proxied()
    head, _, body = raw(proxy, request("/v1/control/start-run", body=b"x" * 100)).partition(b"\r\n\r\n")
    assert body == b"" and b"connection: close" in head.lower() and b"uvicorn" not in head
    assert proxy.traffic.refused == 1


def test_a_large_request_is_refused_before_it_is_read(proxied: Start, raw: Raw, upstream: Any) -> None:
    head = f"POST {PULL} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**15}\r\n\r\n".encode()
    assert status(raw(proxied(body=1000), head)) == 413 and upstream.requests == []


def test_a_large_chunked_request_is_cut(proxied: Start, client: Connect, upstream: Any) -> None:
    proxy = proxied(body=100_000)
    assert client(proxy).post(PULL, content=iter([b"x" * 1000] * 90)).status_code == 200
    with suppress(httpx.TransportError):  # closed while the client still sent
        assert client(proxy).post(PULL, content=iter([b"x" * 50_000] * 200)).status_code == 413
    assert [len(one["body"]) for one in upstream.requests] == [90_000]
    assert proxy.traffic.received < 500_000


def test_large_headers_are_refused(proxied: Start, raw: Raw, upstream: Any) -> None:
    assert status(raw(proxied(header=2000), request(PULL, "POST", "X-Long: " + "x" * 10_000))) == 431
    assert status(raw(proxied(header=2000), request(PULL, "POST", "X-Long: " + "x" * 10_000)[:5000])) in (400, 431)
    assert upstream.requests == []


def test_slow_headers_do_not_hold_a_connection(proxied: Start, raw: Raw) -> None:
    start = time.monotonic()
    assert raw(proxied(seconds=1.0), *(bytes([c]) for c in request(PULL)[:40]), pause=0.05) == b""
    assert time.monotonic() - start < 5


def test_a_connection_without_a_request_is_closed(proxied: Start, raw: Raw) -> None:
    assert raw(proxied(seconds=1.0), seconds=5) == b""


def test_a_slow_body_is_refused(proxied: Start, raw: Raw, upstream: Any) -> None:
    head = f"POST {PULL} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()
    assert status(raw(proxied(seconds=1.0), head, b"x")) == 408
    start = time.monotonic()  # now each piece comes in time, but all below the rate
    raw(proxied(seconds=1.0), head, *[b"x"] * 100, pause=0.1)
    assert time.monotonic() - start < 5 and upstream.requests == []


def test_a_client_that_goes_away_is_forgotten(proxied: Start, client: Connect, folder: Any, upstream: Any) -> None:
    proxy = proxied()
    context = ssl.create_default_context(cafile=str(folder.ca[0]))
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        secure = context.wrap_socket(connection, server_hostname="localhost")
        secure.sendall(f"POST {PULL} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc".encode())
        secure.close()
    assert client(proxy).post(PULL, content=b"x").status_code == 200
    assert [one["body"] for one in upstream.requests] == [b"x"]


def test_a_client_that_does_not_read_is_given_up(proxied: Start, folder: Any, upstream: Any) -> None:
    upstream.answer = [b"x" * 2**20] * 64
    proxy = proxied(seconds=1.0)
    context = ssl.create_default_context(cafile=str(folder.ca[0]))
    received, connection = 0, socket.create_connection(("127.0.0.1", proxy.port), 5)
    with context.wrap_socket(connection, server_hostname="localhost") as secure, suppress(OSError):
        secure.sendall(request(PULL))
        time.sleep(2.5)
        while piece := secure.recv(2**20):
            received += len(piece)
    assert received < 64 * 2**20
    assert proxy.traffic.sent < 64 * 2**20


def test_connections_are_bounded(proxied: Start, folder: Any, client: Connect) -> None:
    proxy = proxied(connections=3)
    context = ssl.create_default_context(cafile=str(folder.ca[0]))
    idle = []
    for _ in range(3):
        plain = socket.create_connection(("127.0.0.1", proxy.port), 5)
        idle.append(context.wrap_socket(plain, server_hostname="localhost"))
    with pytest.raises(httpx.TransportError):
        client(proxy).post(PULL, content=b"x")
    for one in idle:
        one.close()
    time.sleep(0.3)
    assert client(proxy).post(PULL, content=b"x").status_code == 200


def test_plain_text_is_not_answered(proxied: Start) -> None:
    proxy = proxied()
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        connection.sendall(request(PULL))
        with suppress(ConnectionError):
            assert b"HTTP" not in connection.recv(1000)


def test_a_silent_handshake_is_closed(proxied: Start) -> None:
    address = ("127.0.0.1", proxied(seconds=0.3).port)
    with socket.create_connection(address, 5) as connection, suppress(ConnectionError):
        assert connection.recv(1000) == b""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_of_tls_are_refused(proxied: Start) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", proxied().port), 5) as connection, pytest.raises((OSError, ValueError)):
        context.wrap_socket(connection, server_hostname="localhost")


def test_flower_that_is_down_is_a_bad_gateway(proxied: Start, client: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    assert client(proxied(port=free)).post(PULL, content=b"x").status_code == 502  # which Flower's client retries


def test_flower_that_hangs_is_a_gateway_timeout(proxied: Start, client: Connect, upstream: Any) -> None:
    upstream.pause = 2.0
    assert client(proxied(reply_seconds=0.3)).post(PULL, content=b"x").status_code == 504


def test_stops_and_frees_the_port(folder: Any, upstream: Any) -> None:
    certificate, key = folder.server
    with Proxy("127.0.0.1", 0, upstream_port=upstream.port, certificate=certificate, key=key) as proxy:
        assert proxy.running
        with pytest.raises(FedloruError, match=f"cannot listen on 127.0.0.1:{proxy.port}: Address already in use"):
            Proxy("127.0.0.1", proxy.port, upstream_port=1, certificate=certificate, key=key).__enter__()
    assert not proxy.running
    with socket.create_server(("127.0.0.1", proxy.port)):
        pass


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("192.0.2.1", 0), ("127.0.0.1", 70000)])
def test_an_unusable_address_is_a_sentence(host: str, port: int, folder: Any) -> None:
    with pytest.raises(FedloruError, match="cannot listen on"):
        Proxy(host, port, upstream_port=1, certificate=folder.server[0], key=folder.server[1]).__enter__()


def test_a_key_of_another_certificate_is_a_sentence(folder: Any) -> None:
    with pytest.raises(CredentialError, match="cannot be used"):
        Proxy("127.0.0.1", 0, upstream_port=1, certificate=folder.server[0], key=folder.ca[1])
