"""Certificates: what clients accept, and the sentence for each kind of certificate that they refuse."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from fedloru.errors import CredentialError
from fedloru.flower import hosts
from fedloru.flower.certificates import (
    check_server,
    create_ca,
    create_server,
    read_certificate,
    read_identity,
    write_identity,
)
from fedloru.flower.provision import Folder

NOW = dt.datetime.now(dt.UTC)


def extension(certificate: x509.Certificate, kind: Any) -> Any:
    return certificate.extensions.get_extension_for_class(kind)


class TestCA:
    def test_signs_certificates_but_no_authorities(self, folder: Folder) -> None:
        ca = read_certificate(folder.ca[0])
        constraints, usage = extension(ca, x509.BasicConstraints), extension(ca, x509.KeyUsage)
        assert constraints.critical and constraints.value.ca and constraints.value.path_length == 0
        assert usage.critical and usage.value.key_cert_sign and not usage.value.digital_signature

    def test_two_have_different_names(self) -> None:
        assert create_ca().certificate.subject != create_ca().certificate.subject

    def test_an_expired_one_signs_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ca = create_ca()
        monkeypatch.setattr("fedloru.flower.certificates._now", lambda: NOW + dt.timedelta(days=3651))
        with pytest.raises(CredentialError, match=r"the CA certificate expired on .*: create a new CA"):
            create_server(ca, [])


class TestServer:
    def test_is_for_its_hosts_and_this_machine(self) -> None:
        names = hosts.named(
            create_server(create_ca(), ["FL.example.org.", "10.0.0.5", "[fd00::5]", "localhost"]).certificate
        )
        assert names == [
            x509.DNSName("fl.example.org"),
            x509.DNSName("localhost"),
            *(x509.IPAddress(ipaddress.ip_address(a)) for a in ("10.0.0.5", "fd00::5", "127.0.0.1", "::1")),
        ]

    def test_passes_the_strict_checks_of_openssl(self, folder: Folder) -> None:
        if (program := shutil.which("openssl")) is None:
            pytest.skip("no openssl")
        command = [program, "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost"]
        subprocess.run([*command, "-CAfile", str(folder.ca[0]), str(folder.server[0])], check=True, timeout=30)

    def test_is_valid_for_a_slow_clock_and_the_days_asked_for(self) -> None:
        before = dt.datetime.now(dt.UTC).replace(microsecond=0)
        made = create_server(create_ca(), [], days=30).certificate
        after = dt.datetime.now(dt.UTC)
        assert made.not_valid_before_utc < before - dt.timedelta(hours=23)
        assert before <= made.not_valid_after_utc - dt.timedelta(days=30) <= after

    def test_ends_with_its_ca(self) -> None:
        ca = create_ca()
        assert create_server(ca, [], days=3650).certificate.not_valid_after_utc <= ca.certificate.not_valid_after_utc

    @pytest.mark.parametrize("days", [0, -1, 3651, 10**9])
    def test_refuses_days_out_of_range(self, days: int) -> None:
        with pytest.raises(CredentialError, match=f"for {days} days: expected 1 to 3650"):
            create_server(create_ca(), [], days=days)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("https://fl.example.org", "without https://"),
        ("fl.example.org:8443", "without https://, port"),
        ("fl.example.org/path", "without https://"),
        ("0.0.0.0", "all addresses"),
        ("::", "all addresses"),
        ("fe80::1%eth0", "zone"),
        ("10.0.0", "not a complete IP address"),
        ("256.1.1.1", "not a complete IP address"),
        ("", "neither a host name"),
        ("a b", "neither a host name"),
        ("-a.org", "neither a host name"),
        ("a..org", "neither a host name"),
        ("x" * 64 + ".org", "neither a host name"),
        ("a." * 130 + "org", "neither a host name"),
        ("a\nb", "neither a host name"),
        ("fl.*.org", "neither a host name"),
        ("\udc80", "neither a host name"),
    ],
)
def test_hosts_that_no_certificate_can_name(host: str, reason: str) -> None:
    with pytest.raises(CredentialError, match=reason):
        hosts.parse(host)


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("fl.example.org", True),
        ("FL.Example.ORG.", True),
        ("x.wild.org", True),
        ("x.y.wild.org", False),
        ("wild.org", False),
        ("10.0.0.5", True),
        ("10.0.0.6", False),
        ("127.0.0.1", True),
        ("[::1]", True),
        ("0:0:0:0:0:0:0:1", True),
        ("localhost", True),
        ("xn--mnchen-3ya.de", True),
        ("münchen.de", True),
        ("example.org", False),
        ("fl_server", True),
    ],
)
def test_covers(host: str, covered: bool) -> None:
    names = ["fl.example.org", "*.wild.org", "10.0.0.5", "münchen.de", "fl_server"]
    assert hosts.covers(create_server(create_ca(), names).certificate, host) is covered


class TestCheck:
    def test_accepts_what_it_should(self, folder: Folder) -> None:
        for host in (None, "localhost", "127.0.0.1", "::1"):
            check_server(*folder.server, folder.ca[0], host)

    def test_another_host(self, folder: Folder) -> None:
        with pytest.raises(
            CredentialError, match=r"is for localhost, 127.0.0.1, ::1, not for fl.example.org: .* --host"
        ):
            check_server(*folder.server, folder.ca[0], "fl.example.org")

    def test_expired(self, folder: Folder) -> None:
        with pytest.raises(CredentialError, match=r"server.crt expired on .* UTC \(the clock says .*\): create a new"):
            check_server(*folder.server, folder.ca[0], now=NOW + dt.timedelta(days=366))

    def test_not_valid_yet(self, folder: Folder) -> None:
        with pytest.raises(CredentialError, match=r"server.crt is not valid before .* the clock .* set the clock"):
            check_server(*folder.server, folder.ca[0], now=NOW - dt.timedelta(days=2))

    def test_another_ca(self, folder: Folder, tmp_path: Path) -> None:
        write_identity(create_ca(), tmp_path / "ca.crt", tmp_path / "ca.key")
        with pytest.raises(CredentialError, match="is not signed by the CA in"):
            check_server(*folder.server, tmp_path / "ca.crt")

    def test_another_ca_of_the_same_name(self, folder: Folder, tmp_path: Path) -> None:
        key = ec.generate_private_key(ec.SECP384R1())
        name = read_certificate(folder.ca[0]).subject
        (tmp_path / "ca.crt").write_bytes(signed(name, name, key, key).public_bytes(serialization.Encoding.PEM))
        with pytest.raises(CredentialError, match="is not signed by the CA in"):
            check_server(*folder.server, tmp_path / "ca.crt")

    def test_another_key(self, folder: Folder) -> None:
        with pytest.raises(CredentialError, match=r"key .* does not belong to the certificate"):
            check_server(folder.server[0], folder.ca[1], folder.ca[0])

    def test_files_in_the_wrong_order(self, folder: Folder) -> None:
        certificate, key = folder.server
        with pytest.raises(CredentialError, match="holds a private key, expected a certificate"):
            check_server(key, certificate, folder.ca[0])
        with pytest.raises(CredentialError, match="holds a certificate, expected a private key"):
            check_server(certificate, certificate, folder.ca[0])

    @pytest.mark.parametrize("content", [b"", b"garbage", b"\x00\xff" * 100, b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
    def test_garbage(self, content: bytes, folder: Folder, tmp_path: Path) -> None:
        bad = tmp_path / "bad"
        bad.write_bytes(content)
        with pytest.raises(CredentialError, match="bad holds something else, expected a certificate"):
            check_server(bad, folder.server[1], folder.ca[0])
        with pytest.raises(CredentialError, match=r"bad holds .*, expected a private key"):
            check_server(folder.server[0], bad, folder.ca[0])

    def test_missing_large_and_strange_files(self, folder: Folder, tmp_path: Path) -> None:
        with pytest.raises(CredentialError, match=r"there is no file .*nothing, expected a certificate"):
            check_server(tmp_path / "nothing", folder.server[1], folder.ca[0])
        with pytest.raises(CredentialError, match="not a regular file"):
            check_server(tmp_path, folder.server[1], folder.ca[0])
        large = tmp_path / "large"
        large.write_bytes(b"x" * (2**20 + 1))
        with pytest.raises(CredentialError, match="has 1048577 bytes, expected at most 1048576"):
            check_server(large, folder.server[1], folder.ca[0])

    def test_a_key_with_a_passphrase(self, folder: Folder, tmp_path: Path) -> None:
        encryption = serialization.BestAvailableEncryption(b"secret")
        pem = read_identity(*folder.server).key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        (tmp_path / "key").write_bytes(pem)
        with pytest.raises(CredentialError, match="has a passphrase: save it without one"):
            check_server(folder.server[0], tmp_path / "key", folder.ca[0])

    def test_certificates_of_other_authorities(self, tmp_path: Path) -> None:
        """A root, an intermediate authority and a server with an RSA key, as a public CA makes them."""
        root, middle = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        server = rsa.generate_private_key(65537, 2048)
        a, b, c = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in "abc")
        pem = serialization.Encoding.PEM
        top, between = signed(a, a, root, root), signed(b, a, middle, root)
        leaf = signed(c, b, server, middle, ["fl.example.org"])
        (tmp_path / "root").write_bytes(top.public_bytes(pem))
        (tmp_path / "leaf").write_bytes(leaf.public_bytes(pem) + between.public_bytes(pem))
        (tmp_path / "alone").write_bytes(leaf.public_bytes(pem))
        plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        (tmp_path / "key").write_bytes(server.private_bytes(pem, *plain))
        (tmp_path / "key").chmod(0o600)
        check_server(tmp_path / "leaf", tmp_path / "key", tmp_path / "root", "fl.example.org")
        with pytest.raises(CredentialError, match="is not signed by the CA"):
            check_server(tmp_path / "alone", tmp_path / "key", tmp_path / "root")


def signed(
    subject: x509.Name, issuer: x509.Name, key: Any, by: Any, names: list[str] | None = None
) -> x509.Certificate:
    serial, day = x509.random_serial_number(), dt.timedelta(days=1)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), serial, NOW - day, NOW + day)
    if names:
        builder = builder.add_extension(hosts.alternatives(names), critical=False)
    return builder.sign(by, hashes.SHA256())


class TestFiles:
    def test_round_trip(self, folder: Folder) -> None:
        identity = read_identity(*folder.ca)
        assert identity.certificate.public_key() == identity.key.public_key()

    @pytest.mark.skipif(os.name != "posix", reason="permissions")
    def test_only_the_owner_reads_keys(self, folder: Folder) -> None:
        for path in (folder.ca[1], folder.server[1], folder.client("berlin")[0]):
            assert path.stat().st_mode & 0o777 == 0o600

    def test_never_overwritten(self, tmp_path: Path) -> None:
        certificate, key = tmp_path / "crt", tmp_path / "key"
        for existing in (certificate, key):
            existing.write_text("mine")
            with pytest.raises(CredentialError, match="exists already, and is never overwritten"):
                write_identity(create_ca(), certificate, key)
            assert [path.name for path in tmp_path.iterdir()] == [existing.name] and existing.read_text() == "mine"
            existing.unlink()

    def test_all_or_none_are_written(self, tmp_path: Path) -> None:
        with pytest.raises(OSError):
            write_identity(create_ca(), tmp_path / "missing" / "crt", tmp_path / "key")
        assert list(tmp_path.iterdir()) == []
