"""Servers and clients stop on Ctrl-C and SIGTERM with what is done saved, and `fedloru clients` says who is there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flower.processes import Child, Ground, ground, until
from tests.flower.test_end_to_end import TRIAL, equal


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Ground]:
    with ground(tmp_path) as made:
        yield made


def status(place: Ground) -> dict[str, str]:
    """Return the status of each client in the table of ``fedloru clients``."""
    lines = [line.split() for line in place.cli("clients", "--dir", place.home).splitlines()]
    return {words[0]: words[1] for words in lines if words and words[0] in ("berlin", "paris")}


def alone(child: Child) -> bool:
    """Return whether no process of the group of an ended process is left."""
    try:
        os.killpg(child.process.pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_stopped_and_continued(place: Ground) -> None:
    config = TRIAL.format(every=100).replace("clients = 3", "clients = 2").replace("size = 3", "size = 2")
    (place.folder / "trial.toml").write_text(config.replace("epochs = 4", "epochs = 1"))
    place.enroll("berlin", "paris")
    assert status(place) == {"berlin": "away", "paris": "away"}
    server = place.serve()
    berlin, paris = place.join("berlin", part=0), place.join("paris", "--warm", part=1)
    place.round(2)
    assert status(place) == {"berlin": "online", "paris": "online"}

    server.signal(signal.SIGINT)
    text = server.ends(130)
    done = len(place.rows())
    assert f"Stopped. Rounds 1 to {done} are saved: `fedloru serve --resume" in text
    assert "continues from there" in text
    assert status(place) == {"berlin": "away", "paris": "away"}

    berlin.says("trying again in")
    server = place.serve("--resume", place.run)
    until(lambda: status(place)["paris"] == "online", why=place.logs)
    paris.signal(signal.SIGTERM)
    assert paris.ends(130).endswith("Stopped.")
    until(lambda: status(place)["paris"] == "away", 30, why=place.logs)
    paris = place.join("paris", part=1)
    server.ends(0)
    for client in (berlin, paris):
        assert "finished after 6 rounds" in client.ends(0)
        until(lambda client=client: alone(client), 5)
    assert alone(server)
    assert status(place) == {"berlin": "away", "paris": "away"}
    assert [row["round"] for row in place.rows()] == list(range(1, 7))
    equal(place)
