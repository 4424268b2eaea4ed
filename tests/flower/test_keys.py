"""Keys of clients: Flower and ssh-keygen read them, and every other kind of file is a sentence."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fedloru.errors import CredentialError
from fedloru.flower.keys import public_line, read_private_key, read_public_key, write_client_key
from fedloru.flower.provision import Folder

PLAIN = serialization.NoEncryption()
PEM, OPENSSH = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH


def private(key: Any, format: serialization.PrivateFormat = OPENSSH, protection: Any = PLAIN) -> bytes:
    return key.private_bytes(PEM, format, protection)  # type: ignore[no-any-return]


def public(key: Any) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)  # type: ignore[no-any-return]


EC = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()


def written(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_flower_reads_the_keys(folder: Folder) -> None:
    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

    secret, shown = folder.client("berlin")
    arguments = argparse.Namespace(auth_supernode_private_key=str(secret), auth_supernode_public_key=None)
    found = _try_setup_client_authentication(arguments)
    assert found is not None and found[1] == read_public_key(shown) == read_private_key(secret).public_key()
    assert try_load_public_key(shown)


def test_the_public_key_ends_with_the_name(folder: Folder) -> None:
    text = folder.client("berlin")[1].read_text()
    assert text == f"{public_line(read_public_key(folder.client('berlin')[1]))} berlin\n"
    assert text.startswith("ecdsa-sha2-nistp384 ")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
@pytest.mark.parametrize("bits", ["256", "384", "521"])
def test_keys_of_ssh_keygen_are_read(bits: str, tmp_path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", bits, "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True, timeout=30)
    assert read_private_key(tmp_path / "key").public_key() == read_public_key(tmp_path / "key.pub")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
def test_a_passphrase_is_a_sentence(tmp_path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "secret", "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True, timeout=30)
    with pytest.raises(CredentialError, match="has a passphrase: remove it with `ssh-keygen -p"):
        read_private_key(tmp_path / "key")


@pytest.mark.parametrize("suffix", [b"", b"\n", b"\r\n", b" a comment\n\n", b" two words\n"])
@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf", b"# comment\n", b"\n  "])
def test_public_keys_as_people_save_them(prefix: bytes, suffix: bytes, tmp_path: Path) -> None:
    assert read_public_key(written(tmp_path, prefix + public(EC) + suffix)) == EC.public_key()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (private(RSA), "holds an RSA key, expected an EC P-384 key: create one with `ssh-keygen -t ecdsa -b 384"),
        (private(ED), "holds an Ed25519 key, expected an EC P-384 key"),
        (public(EC), "holds a public key, expected the private key"),
        (public(RSA), "holds a public key, expected the private key"),
        (private(EC, serialization.PrivateFormat.PKCS8), "in PEM format, expected OpenSSH format: convert it with"),
        (private(EC, serialization.PrivateFormat.TraditionalOpenSSL), "in PEM format"),
        (private(EC)[:200], "holds no private key in OpenSSH format"),
        (private(EC).replace(b"A", b"B"), "holds no private key in OpenSSH format"),
        (b"", "holds no private key"),
        (b"\x00" * 1000, "holds no private key"),
        (b"x" * (2**16 + 1), "has 65537 bytes, expected at most 65536"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # keys differ in each process
)
def test_other_private_files(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match=message.replace("(", r"\(")):
        read_private_key(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (public(RSA), "holds an RSA key, expected an EC P-384 key: create one with"),
        (public(ED), "holds an Ed25519 key"),
        (public(RSA)[:60], "holds an RSA key"),
        (b"ssh-dss AAAAB3NzaC1kc3MAAACBAP", "holds a DSA key"),
        (b"sk-ecdsa-sha2-nistp256@openssh.com AAAA", "holds a key on a security token"),
        (private(EC), "holds a private key, which must stay on the client"),
        (private(EC, serialization.PrivateFormat.PKCS8), "holds a private key, which must stay on the client"),
        (EC.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo), "not in OpenSSH format"),
        (public(EC) + b"\n" + public(EC), "holds 2 public keys, expected one"),
        (b"", "holds 0 public keys"),
        (b"hello", "holds no public key"),
        (b"\xff\xfe\x00" * 10, "holds no public key"),
        (b"ecdsa-sha2-nistp384 AAAA", "holds no public key"),
        (public(EC)[:-20], "holds no public key"),
        (b"x" * (2**16 + 1), "has 65537 bytes, expected at most 65536"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # keys differ in each process
)
def test_other_public_files(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match=message):
        read_public_key(written(tmp_path, content))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for read in (read_private_key, read_public_key):
        with pytest.raises(CredentialError, match=r"there is no file .*nothing"):
            read(tmp_path / "nothing")
        with pytest.raises(CredentialError, match="not a regular file"):
            read(tmp_path)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_text("mine")
    with pytest.raises(CredentialError, match=r"a.pub exists already, and is never overwritten"):
        write_client_key(tmp_path / "a.key", tmp_path / "a.pub", "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pub"]


@pytest.mark.skipif(os.name != "posix", reason="permissions")
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o644])
def test_a_private_key_that_others_can_read_is_a_warning(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, private(EC))
    path.chmod(mode)
    with caplog.at_level(logging.WARNING, "fedloru"):
        read_private_key(path)
    assert bool(caplog.messages) is bool(mode & 0o077)
    assert all(f"chmod 600 {path}" in message for message in caplog.messages)
