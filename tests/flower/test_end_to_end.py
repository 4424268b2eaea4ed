"""Federations of real processes with TLS, killed at any moment, give the model of a simulation with their cohorts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fedloru import config as configs
from fedloru.config.plan import plan
from fedloru.run.loop import Run
from fedloru.run.simulation import Simulation
from tests.flower.processes import Ground, ground

NAMES = ("berlin", "paris", "rome")
TRIAL = """
seed = 3
rounds = 6
[data]
source = "digits"
[partition]
scheme = "iid"
clients = 3
[model]
name = "mlp"
[lowrank]
rank = 4
[method]
name = "fedloru"
tau = 2
[client]
epochs = 4
[cohort]
size = 3
[output]
checkpoint_every = {every}
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Ground]:
    with ground(tmp_path) as made:
        yield made


def replayed(config: Path, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the model of a simulation in one process, whose cohorts are those of ``rows``."""

    class Recorded(Simulation):
        def present(self) -> Sequence[int]:
            return list(rows[run.state.round]["cohort"])

    made = plan(configs.load(str(config), ['engine.name="sequential"']))
    run = Run(made.replace(rounds=len(rows)), carrier=Recorded)
    assert [row["cohort"] for row in run] == [row["cohort"] for row in rows]
    return dict(run.model().state_dict())


def equal(place: Ground) -> None:
    """Assert that the model is that of a simulation with the cohorts of the run: each reply is in it exactly once."""
    expected = replayed(place.folder / "trial.toml", place.rows())
    found = safetensors.torch.load_file(place.run / "model.safetensors")
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


def bases_agree(place: Ground, version: int) -> None:
    """Assert that all clients hold the server's base of this version."""
    hashes = json.loads((place.run / "bases.json").read_text())
    held = [json.loads((place.folder / "state" / name / "base.json").read_text()) for name in NAMES]
    assert [(each["version"], each["hash"]) for each in held] == [(version, hashes[str(version)])] * len(NAMES)


@pytest.mark.parametrize(
    ("every", "killed"), [(1, 4), pytest.param(3, 5, marks=pytest.mark.slow)], ids=["nothing redone", "a round redone"]
)
def test_killed_client_and_server(place: Ground, every: int, killed: int) -> None:
    (place.folder / "trial.toml").write_text(TRIAL.format(every=every))
    place.enroll(*NAMES)
    server = place.serve()
    clients = {name: place.join(name, "--warm", part=part) for part, name in enumerate(NAMES)}

    place.round(1)
    clients["paris"].kill()
    assert place.round(2)["cohort"] in ([0, 2], [0, 1, 2])  # the reply may have been sent already
    clients["paris"] = place.join("paris", "--warm", part=1)
    place.round(killed - 1)
    time.sleep(0.2)
    server.kill()

    # Clients connect to the new server by themselves; those that are ahead of its checkpoint go back.
    place.serve("--resume", place.run).ends(0)
    for client in clients.values():
        assert "finished after 6 rounds" in client.ends(0)
    rows = place.rows()
    assert [row["round"] for row in rows] == list(range(1, 7))
    assert all(sorted(row["federation"]["clients"]) == sorted(NAMES[c] for c in row["cohort"]) for row in rows)
    assert rows[-1]["cohort"] == [0, 1, 2]
    equal(place)
    bases_agree(place, 2)
