"""The configurations of nginx and Caddy; nginx checks its own where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedloru.cli import app
from fedloru.errors import ConfigError
from fedloru.flower.provision import Folder
from fedloru.flower.reverse_proxies import REVERSE_PROXIES, caddy, nginx
from fedloru.flower.routes import FLEET


def text(make: Callable[..., str], folder: Folder, host: str = "fl.example.org", key: Path | None = None) -> str:
    certificate, own = folder.server
    return make(host, 8443, upstream_port=8000, certificate=certificate, key=key or own)


@pytest.mark.parametrize("make", [nginx, caddy])
def test_name_every_route_and_no_other(make: Callable[..., str], folder: Folder) -> None:
    written = text(make, folder)
    assert all(name in written for name in FLEET)
    assert "control" not in written and "runtime" not in written and "404" in written
    assert str(folder.server[0]) in written and "8443" in written and "127.0.0.1:8000" in written
    assert "https://127.0.0.1" not in written  # what listens there speaks plain HTTP


@pytest.mark.parametrize("make", [nginx, caddy])
@pytest.mark.parametrize("host", ["a;b", "a {", "", "a\nb", "$host", "a b", 'a"b'])
def test_nothing_else_gets_into_a_configuration(make: Callable[..., str], host: str, folder: Folder) -> None:
    with pytest.raises(ConfigError, match="has characters that a configuration cannot hold"):
        text(make, folder, host)
    assert "/a key" in text(make, folder, key=Path("/a key"))
    with pytest.raises(ConfigError):
        text(make, folder, key=Path('/a"; evil'))


@pytest.mark.parametrize("name", REVERSE_PROXIES)
def test_the_command_prints_it(name: str, folder: Folder) -> None:
    options = ["--host", "fl.example.org", "--upstream-port", "8000", "--dir", str(folder.path)]
    shown = CliRunner().invoke(app, ["reverse-proxy", name, *options])
    assert (shown.exit_code, shown.stdout) == (0, text(REVERSE_PROXIES[name], folder)), shown.output


def test_the_command_names_what_is_missing(folder: Folder, tmp_path: Path) -> None:
    other = CliRunner().invoke(app, ["reverse-proxy", "apache", "--host", "a", "--dir", str(folder.path)])
    assert other.exit_code == 2 and "'apache'" in other.stderr and "'nginx' or 'caddy'" in other.stderr
    empty = CliRunner().invoke(app, ["reverse-proxy", "nginx", "--host", "a", "--dir", str(tmp_path)])
    assert empty.exit_code == 2 and "server.crt" in empty.stderr and "fedloru certs" in empty.stderr


@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx")
def test_nginx_accepts_it(folder: Folder, tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    file.write_text(f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{text(nginx, folder)}}}\n")
    subprocess.run(["nginx", "-t", "-c", str(file), "-p", str(tmp_path)], check=True, timeout=30)
