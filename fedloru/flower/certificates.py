"""A certificate authority (CA) for one federation, and the server certificates that it signs.

Clients trust the CA, not a single server certificate: so a server can get a new certificate, for other hosts or another
year, without a change on any client.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedloru.errors import CredentialError
from fedloru.flower import hosts as host_names
from fedloru.flower.credentials import read_credential, write_new

DAYS = 365
"""The default number of days for which a server certificate is valid."""
MAX_DAYS = 3650
"""The number of days for which a CA is valid, and the most that a server certificate can be."""
SKEW = dt.timedelta(days=1)
"""Certificates are valid this much before they are made, for clients whose clock is slow."""
CERTIFICATE_LIMIT = 2**20
"""The largest file with certificates that is read, in bytes."""


class Identity(NamedTuple):
    """A certificate, and the private key that belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def create_ca() -> Identity:
    """Create a certificate authority with a new key; it can sign certificates, but no further authorities."""
    key = ec.generate_private_key(ec.SECP384R1())
    mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedloru federation {mark}")])
    builder = _builder(key, name, name, _now() + dt.timedelta(days=MAX_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Identity(builder.sign(key, hashes.SHA384()), key)


def create_server(ca: Identity, hosts: Sequence[str], days: int = DAYS) -> Identity:
    """Create a server certificate with a new key, signed by ``ca``.

    Args:
        ca: the certificate authority.
        hosts: the host names and IP addresses by which clients reach the server; localhost is added.
        days: the number of days for which it is valid; it ends when the CA does.

    Raises:
        CredentialError: a host is invalid, ``days`` is out of range, or the CA has expired.
    """
    if not 1 <= days <= MAX_DAYS:
        raise CredentialError(f"a certificate cannot be valid for {days} days: expected 1 to {MAX_DAYS}")
    now = _now()
    if not _inside(ca.certificate, now):
        raise CredentialError(f"the CA certificate {_validity(ca.certificate, now)}: create a new CA")
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedloru server")])
    end = min(now + dt.timedelta(days=days), ca.certificate.not_valid_after_utc)
    builder = _builder(key, name, ca.certificate.subject, end)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(host_names.alternatives(hosts), critical=False)
    builder = builder.add_extension(issuer, critical=False)
    return Identity(builder.sign(ca.key, hashes.SHA384()), key)


def write_identity(identity: Identity, certificate: Path, key: Path) -> None:
    """Write an identity into two new files; only the owner can read the key.

    Raises:
        CredentialError: one of the files exists.
        OSError: the folder does not exist, or is not writable.
    """
    pem = serialization.Encoding.PEM
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private = identity.key.private_bytes(pem, pkcs8, plain)
    write_new({key: private, certificate: identity.certificate.public_bytes(pem)}, private=[key])


def read_identity(certificate: Path, key: Path) -> Identity:
    """Return the certificate and the private key in two files.

    Raises:
        CredentialError: a file is missing or invalid, or the key does not belong to the certificate.
    """
    found, private = read_certificate(certificate), _read_key(key)
    if found.public_key() != private.public_key():
        raise CredentialError(f"the key in {key} does not belong to the certificate in {certificate}")
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise CredentialError(f"{key} is not an elliptic curve key, as `fedloru certs` makes them")
    return Identity(found, private)


def read_certificate(path: Path) -> x509.Certificate:
    """Return the first certificate in a PEM file; see ``read_certificates``."""
    return read_certificates(path)[0]


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a PEM file, at least one.

    Raises:
        CredentialError: the file is missing, or holds no certificate.
    """
    data = read_credential(path, "certificate", CERTIFICATE_LIMIT)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        held = "a private key" if b"PRIVATE KEY" in data else "something else"
        raise CredentialError(f"{path} holds {held}, expected a certificate in PEM format") from error


def check_server(
    certificate: Path, key: Path, ca: Path, host: str | None = None, *, now: dt.datetime | None = None
) -> None:
    """Check that a server with ``certificate`` and ``key`` is accepted by clients that trust ``ca``.

    Args:
        certificate: the PEM file of the server's certificate; certificates between it and the CA may follow.
        key: the PEM file of its private key.
        ca: the PEM file of the certificate of the CA.
        host: the host name or IP address by which clients reach the server; None: not checked.
        now: the time at which the certificates must be valid; None: the current time.

    Raises:
        CredentialError: a file is missing or invalid; a certificate has expired or is not valid yet; the certificate
            does not belong to the key, is not signed by the CA, or is for other hosts.
    """
    chain, authorities, private = read_certificates(certificate), read_certificates(ca), _read_key(key)
    server = chain[0]
    again = "create a new one with `fedloru certs`"
    if server.public_key() != private.public_key():
        raise CredentialError(f"the key in {key} does not belong to the certificate in {certificate}: {again}")
    path = _path(chain, authorities)
    if not path:
        raise CredentialError(f"the certificate in {certificate} is not signed by the CA in {ca}: {again}")
    moment = now or _now()
    for one in path:
        if not _inside(one, moment):
            file = ca if one is path[-1] else certificate
            raise CredentialError(f"the certificate in {file} {_validity(one, moment)}")
    if host is not None and not host_names.covers(server, host):
        known = ", ".join(str(name.value) for name in host_names.named(server)) or "no host"
        raise CredentialError(f"the certificate in {certificate} is for {known}, not for {host}: {again} --host {host}")


def trust(ca: Path) -> ssl.SSLContext:
    """Return the TLS settings of a client that trusts the CA in a PEM file, and no other.

    Raises:
        CredentialError: the file is missing, or holds no certificate.
    """
    read_certificates(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(ca)
    return context


def _path(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the certificates from the first of ``chain`` to the authority at its end; [] if none has signed it."""
    path = [chain[0]]
    for _ in chain:
        if authority := next((one for one in authorities if _signed(path[-1], one)), None):
            return [*path, authority]
        path += [one for one in chain if one not in path and _signed(path[-1], one)][:1]
    return []


def _signed(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _inside(certificate: x509.Certificate, now: dt.datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _validity(certificate: x509.Certificate, now: dt.datetime) -> str:
    """Return why a certificate is not valid at ``now``."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        return (
            f"is not valid before {start:%Y-%m-%d %H:%M} UTC, and the clock of this machine says "
            f"{now:%Y-%m-%d %H:%M} UTC: set the clock"
        )
    return f"expired on {end:%Y-%m-%d %H:%M} UTC (the clock says {now:%Y-%m-%d %H:%M} UTC): create a new one"


def _read_key(path: Path) -> PrivateKeyTypes:
    data = read_credential(path, "private key", private=True)
    try:
        return serialization.load_pem_private_key(data, None)
    except TypeError as error:
        raise CredentialError(f"the private key in {path} has a passphrase: save it without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        held = "a certificate" if b"BEGIN CERTIFICATE" in data else "something else"
        raise CredentialError(f"{path} holds {held}, expected a private key in PEM format") from error


def _builder(
    key: ec.EllipticCurvePrivateKey, subject: x509.Name, issuer: x509.Name, end: dt.datetime
) -> x509.CertificateBuilder:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(_now() - SKEW).not_valid_after(end)
    return builder.add_extension(identifier, critical=False)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
        **dict.fromkeys(others, False),
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
