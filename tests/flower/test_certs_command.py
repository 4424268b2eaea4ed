"""``fedloru certs``: what it writes and says, and what it never touches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedloru.cli import app
from fedloru.flower.certificates import check_server


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def certs(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["certs", *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NAMES = {"ca.crt", "ca.key", "server.crt", "server.key"}


def test_makes_a_federation() -> None:
    result = certs("--host", "fl.example.org", "--host", "10.0.0.5", "--client", "berlin", "--client", "paris")
    assert result.exit_code == 0, result.output
    place = Path("federation")
    clients = {f"clients/{name}.{ending}" for name in ("berlin", "paris") for ending in ("key", "pub")}
    assert contents(place).keys() == NAMES | clients
    for host in ("fl.example.org", "10.0.0.5", "localhost", "127.0.0.1", "::1"):
        check_server(place / "server.crt", place / "server.key", place / "ca.crt", host)
    for path in contents(place):
        assert path in result.stdout
    assert "ca.key              private key of the CA: for nobody" in result.stdout
    assert "fedloru enroll federation/clients/berlin.pub --name berlin" in result.stdout


def test_clients_are_added_later_without_the_private_key_of_the_ca() -> None:
    certs("--client", "berlin")
    Path("federation/ca.key").unlink()
    before = contents(Path("federation"))
    result = certs("--client", "paris")
    assert result.exit_code == 0, result.output
    after = contents(Path("federation"))
    assert after.keys() - before.keys() == {"clients/paris.key", "clients/paris.pub"}
    assert {name: after[name] for name in before} == before


def test_a_new_server_certificate_is_signed_by_the_same_ca() -> None:
    certs("--dir", "fed")
    before = contents(Path("fed"))
    Path("fed/server.crt").unlink()
    Path("fed/server.key").unlink()
    assert certs("--dir", "fed", "--host", "fl.example.org").exit_code == 0
    check_server(Path("fed/server.crt"), Path("fed/server.key"), Path("fed/ca.crt"), "fl.example.org")
    assert all(contents(Path("fed"))[name] == before[name] for name in ("ca.crt", "ca.key"))


def test_without_hosts_it_says_that_it_is_for_this_machine() -> None:
    assert "only for a trial on one machine" in certs().stdout
    again = certs()
    assert again.exit_code == 0 and "Nothing to create" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "https://a.org"], "cannot name the host 'https://a.org'"),
        (["--host", "ok.org", "--host", "0.0.0.0"], "cannot name the host '0.0.0.0'"),
        (["--client", "../x"], "'../x' cannot be the name of a client"),
        (["--client", ""], "'' cannot be the name of a client"),
        (["--client", ".hidden"], "cannot be the name of a client"),
        (["--client", "a/b"], "cannot be the name of a client"),
        (["--client", "x" * 65], "cannot be the name of a client"),
        (["--client", "a", "--client", "a"], "clients have different names"),
        (["--client", "ok", "--client", "Ok"], "clients have different names"),
        (["--days", "0"], "--days"),
        (["--days", "100000"], "--days"),
        (["--dir", "file"], "file is a file: name a folder"),
        (["--dir", "file/inside"], "file"),
    ],
)
def test_bad_arguments_write_nothing(arguments: list[str], message: str) -> None:
    Path("file").write_text("mine")
    result = certs(*arguments)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.output
    assert contents(Path()) == {"file": b"mine"}


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        (None, ["--host", "a.org"], "server.crt exists already, and is never overwritten"),
        (None, ["--client", "berlin"], "berlin.key exists already, and is never overwritten"),
        (None, ["--client", "new", "--client", "berlin"], "berlin.key exists already"),
        ("clients/berlin.key", ["--client", "berlin"], "berlin.pub exists already"),
        ("ca.crt", ["--client", "new"], "ca.key exists, but"),
        ("server.crt", ["--client", "new"], "server.key exists, but"),
    ],
)
def test_existing_files_stay(missing: str | None, arguments: list[str], message: str) -> None:
    certs("--client", "berlin")
    if missing:
        Path("federation", missing).unlink()
    before = contents(Path("federation"))
    result = certs(*arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert contents(Path("federation")) == before


@pytest.mark.parametrize("content", ["", "garbage"])
def test_a_damaged_ca_is_a_sentence(content: str) -> None:
    certs()
    for name in ("server.crt", "server.key"):
        Path("federation", name).unlink()
    Path("federation/ca.key").write_text(content)
    before = contents(Path("federation"))
    result = certs("--host", "a.org")
    assert result.exit_code == 2 and "ca.key holds something else, expected a private key" in result.stderr
    assert contents(Path("federation")) == before


def test_without_the_extra_it_names_the_command() -> None:
    code = "import sys; sys.modules['cryptography'] = None; from fedloru.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "certs"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "requires cryptography: install it with `pip install 'fedloru[flower]'`" in done.stderr
