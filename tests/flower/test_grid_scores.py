"""The scores that clients report: checked like every reply, and never needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedloru.flower.envelope import EVALUATE, Enclosed
from tests.flower.corruptions import BAD, Corrupt, corrupting, table
from tests.flower.grids import Grids, configuration, same, simulated


def scored(**values: Any) -> Corrupt:
    return table(shared={"kind": "scored", "loss": 0.5, "accuracy": 0.5, "units": 3, "f1": None} | values)


FAULTS: dict[str, Corrupt] = {
    "too accurate": scored(accuracy=5.0),
    "negative": scored(accuracy=-0.1),
    "no number": scored(loss="x"),
    "endless": scored(loss=1e400),
    "no examples": scored(units=0),
    "another question": table(answers="00" * 16),
    "no JSON": lambda sent: Enclosed(b"hello"),
    "nothing": table(shared=None),
    "a list": table(shared=[]),
}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Grids:
    config, file = configuration(tmp_path_factory.mktemp("scores"), rounds=2)
    return Grids(config, file, file.parent)


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_faulty_score_is_left_out(fault: str, federation: Grids, caplog: pytest.LogCaptureFixture) -> None:
    federation.grid.change = corrupting(FAULTS[fault], EVALUATE)
    run = federation.run()
    rows = list(run)
    assert [row["personal"]["shared"]["clients"] for row in rows] == [3, 3]
    assert f"the scores of c{BAD} are not used" in caplog.text


def test_clients_that_do_not_share_scores_are_not_asked(tmp_path: Path) -> None:
    config, file = configuration(tmp_path, rounds=2)
    federation = Grids(config, file, tmp_path)
    for client in federation.members:
        federation.restart(client, federation.terms._replace(scores=False))
    run = federation.run()
    assert [row["personal"] for row in run] == [None, None]
    assert same(run, simulated(config))
