"""The keys by which a server knows its clients: elliptic curve keys in OpenSSH format, as Flower reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fedloru.errors import CredentialError
from fedloru.flower.credentials import read_credential, write_new

CREATE = 'ssh-keygen -t ecdsa -b 384 -N "" -f client.key'
"""The command that creates a key without this package."""
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_OTHERS = {
    (rsa.RSAPrivateKey, rsa.RSAPublicKey): "an RSA key",
    (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey): "an Ed25519 key",
}
_ALGORITHMS = {
    "ssh-rsa": "an RSA key",
    "ssh-ed25519": "an Ed25519 key",
    "ssh-dss": "a DSA key",
    "sk-": "a key on a security token",
}


def write_client_key(private: Path, public: Path, comment: str) -> None:
    """Create a client's key (EC P-384), and write both halves into new files; only the owner can read ``private``.

    Args:
        private: the file of the private key, which stays on the client.
        public: the file of the public key, which the server enrolls.
        comment: the name of the client, at the end of the public key.

    Raises:
        CredentialError: one of the files exists.
        OSError: the folder does not exist, or is not writable.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    pem, openssh = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    secret = key.private_bytes(pem, openssh, serialization.NoEncryption())
    write_new({private: secret, public: f"{public_line(key.public_key())} {comment}\n".encode()}, private=[private])


def public_line(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key as one line in OpenSSH format, without a comment."""
    openssh = serialization.PublicFormat.OpenSSH
    return key.public_bytes(serialization.Encoding.OpenSSH, openssh).decode()


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the private key of a client.

    Raises:
        CredentialError: the file is missing or too large, or holds something else than an EC key in OpenSSH format.
    """
    data = read_credential(path, "private key", private=True)
    if data.startswith(tuple(name.encode() for name in ("ecdsa-", *_ALGORITHMS))) or b"PUBLIC KEY" in data:
        raise CredentialError(f"{path} holds a public key, expected the private key that belongs to it")
    if b"PRIVATE KEY-----" in data and b"BEGIN OPENSSH" not in data:
        raise CredentialError(
            f"{path} holds a private key in PEM format, expected OpenSSH format: convert it with `ssh-keygen -p -N "
            f'"" -f {path}`'
        )
    try:
        key: Any = serialization.load_ssh_private_key(data, None)
    except TypeError as error:
        raise CredentialError(
            f'the private key in {path} has a passphrase: remove it with `ssh-keygen -p -N "" -f {path}`'
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(path, "no private key in OpenSSH format") from error
    _check_kind(key, path)
    found: ec.EllipticCurvePrivateKey = key
    return found


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Return the public key of a client.

    Raises:
        CredentialError: the file is missing or too large, or holds something else than one EC key in OpenSSH format.
    """
    data = read_credential(path, "public key").removeprefix(b"\xef\xbb\xbf")  # editors on Windows write this mark
    if b"PRIVATE KEY" in data:
        raise CredentialError(f"{path} holds a private key, which must stay on the client: name its public key (.pub)")
    lines = [line for line in data.splitlines() if line.strip() and not line.startswith(b"#")]
    if data.lstrip().startswith(b"-----BEGIN"):
        raise _unusable(path, "a key that is not in OpenSSH format")
    if len(lines) != 1:
        raise CredentialError(f"{path} holds {len(lines)} public keys, expected one, in OpenSSH format")
    try:
        key: Any = serialization.load_ssh_public_key(lines[0].strip())
    except (ValueError, UnsupportedAlgorithm) as error:
        kind = lines[0].strip().decode("ascii", "replace")
        held = next((text for name, text in _ALGORITHMS.items() if kind.startswith(name)), "no public key")
        raise _unusable(path, held) from error
    _check_kind(key, path)
    found: ec.EllipticCurvePublicKey = key
    return found


def _check_kind(key: Any, path: Path) -> None:
    if not isinstance(getattr(key, "curve", None), _CURVES):
        held = next((text for kinds, text in _OTHERS.items() if isinstance(key, kinds)), "another kind of key")
        raise _unusable(path, held)


def _unusable(path: Path, held: str) -> CredentialError:
    return CredentialError(f"{path} holds {held}, expected an EC P-384 key: create one with `{CREATE}`")


def line_to_bytes(line: str) -> bytes:
    """Return a public key, given as a line in OpenSSH format, as Flower stores it."""
    key = serialization.load_ssh_public_key(line.encode())
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
