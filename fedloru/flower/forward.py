"""The ASGI application of the proxy: forwards the routes of clients, and refuses everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import httpx

from fedloru.flower.routes import FLEET, MAX_BODY, PREFIX

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

ROUTES = {f"{PREFIX}{name}".encode(): f"{PREFIX}{name}" for name in FLEET}
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade expect".split()
)
"""Headers about one connection, which are not forwarded."""
_REPLACED = frozenset(b"host x-forwarded-for x-forwarded-proto x-forwarded-host x-real-ip forwarded cookie".split())
_OURS = frozenset((b"date", b"server"))


@dataclass(frozen=True)
class Limits:
    """What a client can use of the proxy.

    Args:
        body: the largest request, in bytes.
        header: the largest request line and headers together, in bytes.
        connections: the most connections at a time; more are closed.
        seconds: the longest time for a TLS handshake, for the headers of a request, and for the next piece of a body.
        rate: the slowest body in bytes per second, after the first ``seconds``.
        reply_seconds: the longest time that Flower's server may take for a reply.
    """

    body: int = MAX_BODY
    header: int = 16 * 2**10
    connections: int = 512
    seconds: float = 30.0
    rate: int = 1000
    reply_seconds: float = 120.0


@dataclass
class Traffic:
    """What passed through the proxy: bytes of request and response bodies, and numbers of requests."""

    received: int = 0
    sent: int = 0
    forwarded: int = 0
    refused: int = 0


class _RefusedError(Exception):
    """A request that is not forwarded, or not to its end."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Forwarder:
    """Forwards requests to Flower's server.

    Args:
        client: sends them; its base URL is that of Flower's server.
        limits: the bounds of a request.
        traffic: what is counted.
    """

    def __init__(self, client: httpx.AsyncClient, limits: Limits, traffic: Traffic) -> None:
        self._client, self._limits, self._traffic = client, limits, traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            request = self._request(scope, receive)
            response = await self._client.send(request, stream=True)
        except _RefusedError as refused:
            return await self._refuse(refused.status, send)
        except httpx.PoolTimeout:
            return await self._refuse(503, send)
        except httpx.TimeoutException:
            return await self._refuse(504, send)
        except httpx.HTTPError:
            return await self._refuse(502, send)
        self._traffic.forwarded += 1
        try:
            await self._reply(response, send)
        except (httpx.HTTPError, TimeoutError):
            return None  # the server closes the connection, since the response is not complete
        finally:
            await response.aclose()
        return None

    def _request(self, scope: Scope, receive: Receive) -> httpx.Request:
        """Return the request to Flower's server; its URL is one of ours, never text of the client."""
        path = ROUTES.get(scope["raw_path"])
        if path is None or scope["query_string"]:
            raise _RefusedError(404)
        if scope["method"] != "POST":
            raise _RefusedError(405)
        headers: Headers = scope["headers"]
        # The parser bounds only headers that are not complete yet.
        if sum(len(name) + len(value) for name, value in headers) > self._limits.header:
            raise _RefusedError(431)
        lengths = [value for name, value in headers if name == b"content-length"]
        chunked = any(name == b"transfer-encoding" for name, _ in headers)
        if chunked == bool(lengths):
            raise _RefusedError(400 if chunked else 411)
        if lengths and int(lengths[0]) > self._limits.body:
            raise _RefusedError(413)
        kept = [*_end_to_end(headers, _REPLACED), (b"x-forwarded-for", scope["client"][0].encode())]
        return self._client.build_request("POST", path, headers=kept, content=self._body(receive))

    async def _body(self, receive: Receive) -> AsyncIterator[bytes]:
        """Yield the pieces of a request; each must come in time, and all at the slowest rate at least."""
        clock, limits, total = asyncio.get_running_loop().time, self._limits, 0
        start = clock()
        while True:
            deadline = min(clock(), start + total / limits.rate) + limits.seconds
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise _RefusedError(408) from error
            if message["type"] != "http.request":
                raise _RefusedError(400)  # the client is gone
            piece = message.get("body", b"")
            total += len(piece)
            if total > limits.body:
                raise _RefusedError(413)
            self._traffic.received += len(piece)
            if piece:
                yield piece
            if not message.get("more_body"):
                return

    async def _reply(self, response: httpx.Response, send: Send) -> None:
        """Send a response as it arrives; a client that does not read it in time is given up."""

        async def timely(message: MutableMapping[str, Any]) -> None:
            async with asyncio.timeout(self._limits.seconds):
                await send(message)

        headers = _end_to_end([(name.lower(), value) for name, value in response.headers.raw], _OURS)
        await timely({"type": "http.response.start", "status": response.status_code, "headers": headers})
        async for piece in response.aiter_raw():
            await timely({"type": "http.response.body", "body": piece, "more_body": True})
            self._traffic.sent += len(piece)
        await timely({"type": "http.response.body"})

    async def _refuse(self, status: int, send: Send) -> None:
        """Answer without a body, and close the connection: what the client still sends is not read."""
        self._traffic.refused += 1
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body"})


def _end_to_end(headers: Headers, also: Iterable[bytes]) -> Headers:
    """Return the headers that are for the other end: neither hop by hop, nor named by Connection, nor in ``also``."""
    connection = b",".join(value for name, value in headers if name == b"connection")
    named = {token.strip().lower() for token in connection.split(b",")}
    dropped = HOP_BY_HOP | named - {b"content-length", b"content-type"} | frozenset(also)
    return [(name, value) for name, value in headers if name not in dropped]
