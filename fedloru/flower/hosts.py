"""The names and addresses for which a server certificate is valid."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from cryptography import x509

from fedloru.errors import CredentialError, quoted

LOCAL = ("localhost", "127.0.0.1", "::1")
"""The hosts of every server certificate, for clients on the same machine."""
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")

Host = x509.DNSName | x509.IPAddress


def parse(text: str) -> Host:
    """Return a host as it is written into a certificate.

    Args:
        text: a host name such as fl.example.org or ``*.example.org``, or an IP address.

    Raises:
        CredentialError: it is neither.
    """
    name = text.strip().removesuffix(".").lower()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return x509.DNSName(_host_name(name, text))
    if address.is_unspecified:
        raise _not_a_host(text, "it stands for all addresses of a machine; name the one that clients connect to")
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise _not_a_host(text, "a certificate cannot hold the zone after the %")
    return x509.IPAddress(address)


def alternatives(hosts: Iterable[str]) -> x509.SubjectAlternativeName:
    """Return ``hosts`` and ``LOCAL`` as the extension of a certificate, without duplicates."""
    return x509.SubjectAlternativeName(dict.fromkeys(map(parse, (*hosts, *LOCAL))))


def covers(certificate: x509.Certificate, host: str) -> bool:
    """Return whether ``certificate`` is valid for ``host``, as TLS clients decide it."""
    names = named(certificate)
    wanted = parse(host)
    if wanted in names:
        return True
    head, _, domain = str(wanted.value).partition(".")
    return isinstance(wanted, x509.DNSName) and bool(head and domain) and x509.DNSName(f"*.{domain}") in names


def named(certificate: x509.Certificate) -> list[Host]:
    """Return the hosts for which ``certificate`` is valid."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    lower = [x509.DNSName(name.value.lower()) for name in names if isinstance(name, x509.DNSName)]
    return [*lower, *(name for name in names if isinstance(name, x509.IPAddress))]


def _host_name(name: str, text: str) -> str:
    """Return ``name`` in ASCII, as certificates hold it."""
    if "/" in name or ":" in name:
        raise _not_a_host(text, "name only the host, without https://, port or path")
    try:
        encoded = name.encode("idna").decode() if not name.isascii() else name
    except UnicodeError:
        encoded = ""
    labels = encoded.removeprefix("*.").split(".")
    if len(encoded) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _not_a_host(text, "it is neither a host name such as fl.example.org nor an IP address")
    if labels[-1].isdecimal():
        raise _not_a_host(text, "it is not a complete IP address, such as 10.0.0.5")
    return encoded


def _not_a_host(text: str, reason: str) -> CredentialError:
    return CredentialError(f"a server certificate cannot name the host {quoted(text)}: {reason}")


def address(text: str) -> tuple[str, int]:
    """Return the host and the port of an address such as fl.example.org:8443 or [::1]:8443.

    Raises:
        CredentialError: it is not an address.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise CredentialError(f"{quoted(text)} is not an address: write HOST:PORT, such as fl.example.org:8443")
    if "://" in host:
        raise CredentialError(f"{quoted(text)} is not an address: write it without {host.partition('://')[0]}://")
    return str(parse(host).value), int(port)
