"""Look at a server as a client does, before Flower's client starts, which would retry for ever or give no reason."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import time
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import parsedate_to_datetime
from pathlib import Path

from fedloru.errors import CredentialError, FedloruError, UnreachableError, plain
from fedloru.flower.certificates import trust
from fedloru.flower.hosts import parse

TIMEOUT = 10.0
"""The default number of seconds for the connection, the TLS handshake and the answer together."""
MAX_AHEAD, MAX_BEHIND = 6, 300
"""By how many seconds a client's clock can differ from the server's; Flower refuses its signatures otherwise."""
_ANSWER_LIMIT = 2**16


def check_reachable(host: str, port: int, ca: Path, timeout: float = TIMEOUT) -> None:
    """Check that the server speaks TLS with a certificate for ``host`` that ``ca`` signed, and that the clocks agree.

    Args:
        host: the host name or IP address of the server.
        port: its port.
        ca: PEM file of the certificate of the CA.
        timeout: the number of seconds after which the server counts as unreachable.

    Raises:
        UnreachableError: there is no connection; a later try may succeed.
        CredentialError: the CA file is invalid, or the certificate of the server has expired, is not valid yet, is for
            other hosts, or is signed by another CA.
        FedloruError: the server does not speak TLS, or the clocks differ too much.
    """
    context, name = trust(ca), str(parse(host).value)
    where, deadline = f"{host}:{port}", time.monotonic() + timeout
    if not 1 <= port <= 65535:
        raise FedloruError(f"{port} is not a port: expected 1 to 65535")
    try:
        with socket.create_connection((name, port), timeout) as connection:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            answer = _answer(connection, name, context, deadline)
    except (CredentialError, UnreachableError):
        raise
    except ssl.SSLCertVerificationError as error:
        raise CredentialError(_untrusted(error, where, host, ca)) from error
    except ssl.SSLError as error:
        raise FedloruError(f"the server at {where} does not speak TLS 1.2 or later ({_reason(error)})") from error
    except socket.gaierror as error:
        raise UnreachableError(f"there is no address for the host {host}: check the name, and the network") from error
    except TimeoutError as error:
        raise UnreachableError(f"the server at {where} did not answer in {timeout:g} s") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreachableError(f"cannot connect to the server at {where}: {reason}") from error
    _check_clock(answer, where)


def _answer(connection: socket.socket, host: str, context: ssl.SSLContext, deadline: float) -> Message:
    """Return the headers of the server's answer to a request for nothing."""
    data = b""
    with context.wrap_socket(connection, server_hostname=host) as secure:
        name = f"[{host}]" if ":" in host else host
        secure.sendall(f"HEAD / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        while b"\r\n\r\n" not in data and len(data) < _ANSWER_LIMIT:
            if time.monotonic() > deadline:
                raise TimeoutError
            piece = secure.recv(4096)
            if not piece:
                break
            data += piece
    return BytesHeaderParser().parsebytes(data.partition(b"\r\n")[2])


def _check_clock(answer: Message, where: str) -> None:
    """Compare the clocks, if the server sends its time."""
    try:
        theirs = parsedate_to_datetime(str(answer["date"]))
    except ValueError:
        return
    ours = dt.datetime.now(dt.UTC)
    ahead = (ours - theirs.astimezone(dt.UTC)).total_seconds()
    if not -MAX_BEHIND <= ahead <= MAX_AHEAD:
        raise FedloruError(
            f"the clocks differ: this machine says {ours:%Y-%m-%d %H:%M:%S} UTC, the server at {where} "
            f"{theirs:%Y-%m-%d %H:%M:%S} UTC. Set the wrong one: a client's clock may be at most 5 s ahead and "
            "5 minutes behind"
        )


def _untrusted(error: ssl.SSLCertVerificationError, where: str, host: str, ca: Path) -> str:
    ours = f"the clock of this machine says {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    reasons = {
        9: f"is not valid yet: {ours}; set the clock",
        10: f"has expired: {ours}; the server needs a new one",
        62: f"is for another host than {host}: use a name that it was made for, or make one with --host {host}",
        64: f"is for another host than {host}: use a name that it was made for, or make one with --host {host}",
    }
    other = f"is not signed by the CA in {ca}: ask the operator of the server for its ca.crt"
    unknown_ca = error.verify_code in (18, 19, 20, 21, 7)
    reason = (
        other if unknown_ca else reasons.get(error.verify_code, f"cannot be verified: {plain(error.verify_message)}")
    )
    return f"the certificate of the server at {where} {reason}"


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "no TLS answer").lower().replace("_", " ")
