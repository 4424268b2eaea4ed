"""The TLS proxy between the clients of a federation and Flower's server, which listens on loopback only.

Flower serves clients and operators on one port, and the routes for operators have no authentication: whoever can reach
them can start runs, that is, run code on every client. So the port that clients reach is this proxy's. It forwards a
fixed set of routes and refuses everything else, and it bounds what a client can use: the size of headers and bodies,
the number of connections, and the time for each.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedloru.errors import CredentialError, FedloruError
from fedloru.flower.forward import Forwarder, Limits, Traffic

__all__ = ["Limits", "Proxy", "Traffic"]

START_SECONDS = STOP_SECONDS = 10.0


class Proxy:
    """A TLS proxy in a thread, which forwards the routes of clients; a context manager.

    ::

        with Proxy("0.0.0.0", 8443, upstream_port=8000, certificate=crt, key=key) as proxy:
            proxy.port, proxy.traffic.received

    Args:
        host: the address to listen on; "0.0.0.0" or "::" for all.
        port: the port to listen on; 0: any free one.
        upstream_port: the port of Flower's server on 127.0.0.1, which speaks plain HTTP.
        certificate: PEM file of the server's certificate.
        key: PEM file of its private key.
        limits: what a client can use.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        upstream_port: int,
        certificate: Path,
        key: Path,
        limits: Limits | None = None,
    ) -> None:
        self.host, self.port = host, port
        self.limits, self.traffic = limits or Limits(), Traffic()
        self._upstream = f"http://127.0.0.1:{upstream_port}"
        self._context = _context(certificate, key)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        """Listen, and return when clients can connect.

        Raises:
            FedloruError: the address cannot be used.
        """
        listener = _listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(listener,), name="fedloru-proxy", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_SECONDS) or not self.running:
            self.__exit__()
            raise FedloruError(f"the proxy on {self.host}:{self.port} did not start")
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections and stop the thread."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    @property
    def running(self) -> bool:
        """Whether the proxy accepts connections."""
        return self._thread is not None and self._thread.is_alive() and bool(self._server and self._server.started)

    def _run(self, listener: socket.socket) -> None:
        try:
            with listener, asyncio.Runner(loop_factory=lambda: _Loop(self.limits.seconds)) as runner:
                runner.run(self._serve(listener))
        finally:
            self._ready.set()

    async def _serve(self, listener: socket.socket) -> None:
        timeout = httpx.Timeout(self.limits.reply_seconds, connect=self.limits.seconds, pool=self.limits.seconds)
        pool = httpx.Limits(max_connections=max(1, self.limits.connections // 4))
        # trust_env: the proxies in the environment are for the outside, not for loopback.
        async with httpx.AsyncClient(base_url=self._upstream, timeout=timeout, limits=pool, trust_env=False) as client:
            config = uvicorn.Config(
                Forwarder(client, self.limits, self.traffic),
                http=lambda **arguments: _Protocol(self.limits, **arguments),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=3,
                h11_max_incomplete_event_size=self.limits.header,
                ssl_context_factory=lambda *_: self._context,
            )
            self._server = _Server(config, self._ready)
            await self._server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that sets an event once it listens."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers bound the time of a TLS handshake."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        bounds = {"ssl_handshake_timeout": self._seconds, "ssl_shutdown_timeout": self._seconds}
        return await super().create_server(*args, **kwargs, **bounds)  # type: ignore[call-overload]


class _Protocol(H11Protocol):
    """HTTP/1.1 with a bound on connections, and on the time for the headers of a request."""

    def __init__(self, limits: Limits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._expiry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        # asyncio does so only for sockets that name their protocol; without, each reply waits 40 ms for an ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self._limits.connections:
            self.transport.abort()
        else:
            self._expect_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]
            self._expect_request()
        else:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        """Start the timer for the headers of a request, unless it runs: bytes that trickle in do not extend it."""
        if self._expiry is None:
            self._expiry = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # not asked for on the terminal
    except (OSError, ValueError) as error:
        raise CredentialError(f"the certificate {certificate} and the key {key} cannot be used: {error}") from error
    return context


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise FedloruError(f"cannot listen on port {port}: expected 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=256, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FedloruError(
            f"cannot listen on {host}:{port}: {reason}. Choose a free port of this machine, above 1023 without root"
        ) from error
