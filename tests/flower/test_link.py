"""A client's network is cut for 20 seconds, in network namespaces of this user."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flower.processes import Child, Ground, ground, until
from tests.flower.test_end_to_end import TRIAL, equal

TOOLS = ("unshare", "nsenter", "ip")
INSIDE = (
    "ip link set lo up; ip link add out type veth peer name in; ip addr add 10.9.0.1/24 dev out; ip link set out up"
)
AWAY = "ip link set lo up; until ip addr add 10.9.0.2/24 dev in 2>/dev/null; do sleep 0.1; done; ip link set in up"
CUT = 20.0


def namespace_of(child: Child) -> Path:
    return Path(f"/proc/{child.process.pid}/ns/net").readlink()


def possible() -> bool:
    if not all(map(shutil.which, TOOLS)):
        return False
    command = [
        "unshare",
        "-rn",
        "sh",
        "-ec",
        "ip link set lo up; ip link add out type veth peer name in; unshare -n true",
    ]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Ground]:
    with ground(tmp_path) as made:
        yield made


@pytest.mark.slow
@pytest.mark.skipif(not possible(), reason="this machine has no network namespaces for users, or no unshare and ip")
def test_a_link_that_is_cut(place: Ground) -> None:
    config = TRIAL.format(every=1).replace("clients = 3", "clients = 2").replace("size = 3", "size = 2")
    config = config.replace("rounds = 6", "rounds = 8") + "[federation]\nquorum = 1.0\n"
    (place.folder / "trial.toml").write_text(config)
    place.cli("certs", "--dir", place.home, "--client", "near", "--client", "far", "--host", "10.9.0.1")
    for name in ("near", "far"):
        place.cli("enroll", place.home / "clients" / f"{name}.pub", "--name", name, "--dir", place.home)

    def within(shell: str, *namespace: str) -> list[str]:
        return [*namespace, "sh", "-ec", f'{shell}; exec "$@"', "sh", sys.executable, "-m", "fedloru"]

    trial = place.folder / "trial.toml"
    here = ("--dir", place.home, "--host", "0.0.0.0", "--port", 8443)
    server = place.start("server", "serve", trial, "--out", place.run, *here, program=within(INSIDE, "unshare", "-rn"))
    server.says("Listening on")
    namespace = ["nsenter", "-t", str(server.process.pid), "-U", "-n", "--preserve-credentials"]
    where = {"server": "10.9.0.1:8443"}
    near = place.join("near", "--warm", part=0, program=within("true", *namespace), **where)
    until(lambda: namespace_of(near) == namespace_of(server))
    far = place.join("far", "--warm", part=1, program=within(AWAY, *namespace, "unshare", "-n"), **where)

    def link(*change: str) -> None:
        subprocess.run([*namespace, "ip", "link", "set", *change], check=True)

    until(lambda: namespace_of(far) not in (namespace_of(near), Path("/proc/self/ns/net").readlink()))
    link("in", "netns", str(far.process.pid))
    place.round(2)
    link("out", "down")
    time.sleep(CUT)
    link("out", "up")
    server.ends(0)
    for client in (near, far):
        assert "finished after 8 rounds" in client.ends(0)
    assert [row["round"] for row in place.rows()] == list(range(1, 9))
    assert place.rows()[-1]["cohort"] == [0, 1]
    equal(place)
