"""A server that is restored from an older checkpoint, with clients that are ahead of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedloru import api
from fedloru.config import Config
from fedloru.errors import RunFolderError
from fedloru.flower.federate import local
from fedloru.flower.roster import Roster
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from tests.flower.grids import Grids, configuration, same, simulated

METHODS = {name: {"method": {"name": name, "tau": 2}} for name in ("fedloru", "pfedloru")}


def create(config: Config, folder: Path) -> RunFolder:
    return RunFolder.create(folder, {"rounds": config.rounds}, {})


def killed(federation: Grids, folder: RunFolder, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run some rounds, and stop like a process that is killed: without a last checkpoint."""
    rounds = iter(federation.run(folder))
    for _ in range(after):
        next(rounds)
    with monkeypatch.context() as context:
        context.setattr(RunFolder, "save", lambda *_: None)
        rounds.close()


def resumed(federation: Grids, folder: Path) -> Run:
    """Return the run with a new server, from the last checkpoint."""
    opened = RunFolder.open(folder)
    return federation.run(opened, opened.latest("cpu"))


@pytest.mark.parametrize("restarted", [False, True], ids=["warm", "restarted"])
@pytest.mark.parametrize("name", list(METHODS))
def test_clients_that_are_ahead_go_back_with_the_server(
    name: str, restarted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every: dict[str, Any] = {"output": {"checkpoint_every": 3, "dir": str(tmp_path / "run")}}
    config, file = configuration(tmp_path, rounds=7, federation={"scores": False}, **every, **METHODS[name])
    federation = Grids(config, file, tmp_path)
    folder = create(config, tmp_path / "run")
    killed(federation, folder, 5, monkeypatch)
    if restarted:
        for client in federation.members:
            federation.restart(client)
    run = resumed(federation, tmp_path / "run")
    assert run.state.round == 3
    rows = list(run)
    assert same(run, simulated(config))
    assert [row["round"] for row in rows] == [4, 5, 6, 7]
    assert [row["round"] for row in RunFolder.open(tmp_path / "run").all_rows()] == list(range(1, 8))
    hashes = run.carrier._bases._hashes  # type: ignore[attr-defined]
    assert all(hashes[version] == base for version, base in federation.bases())


def test_another_cohort_after_going_back_replaces_the_bases_of_lost_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, file = configuration(
        tmp_path, rounds=7, federation={"scores": False}, output={"checkpoint_every": 3, "dir": str(tmp_path / "run")}
    )
    federation = Grids(config, file, tmp_path)
    folder = create(config, tmp_path / "run")
    killed(federation, folder, 5, monkeypatch)
    federation.leave(1)  # the rounds after the checkpoint have other cohorts, and merge something else
    rounds = iter(resumed(federation, tmp_path / "run"))
    run_rows = [next(rounds) for _ in range(2)]
    federation.restart(1)
    run_rows += list(rounds)
    assert 1 not in run_rows[0]["cohort"] + run_rows[1]["cohort"]
    assert not any(row["federation"]["refused"] for row in run_rows)
    versions = {row["round"]: row["version"] for row in run_rows}
    assert versions == {4: 2, 5: 2, 6: 3, 7: 3}
    expected = _with_the_same_absences(tmp_path / "other")
    assert RunFolder.open(tmp_path / "run").latest("cpu").state.round == 7
    found = RunFolder.open(tmp_path / "run").latest("cpu").state
    assert all((found.base[key] == expected.state.base[key]).all() for key in found.base)
    assert all((found.shared[key] == expected.state.shared[key]).all() for key in found.shared)


def _with_the_same_absences(folder: Path) -> Run:
    """Return a run without interruption in which the client is absent in rounds 4 and 5."""
    folder.mkdir()
    config, file = configuration(folder, rounds=7, federation={"scores": False})
    federation = Grids(config, file, folder)
    run = federation.run()
    for row in run:
        if row["round"] == 3:
            federation.leave(1)
        if row["round"] == 5:
            federation.restart(1)
    return run


def test_a_run_is_not_resumed_with_the_clients_of_another_federation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, file = configuration(tmp_path, federation={"scores": False}, output={"dir": str(tmp_path / "run")})
    federation = Grids(config, file, tmp_path)
    killed(federation, create(config, tmp_path / "run"), 1, monkeypatch)
    before = (tmp_path / "run" / "clients.json").read_bytes()
    federation.roster = Roster(tmp_path / "another")
    for client in range(4):
        federation.roster.enroll(f"other{client}", f"key {client}")
    with pytest.raises(RunFolderError, match="another federation: its client 0 is 'c0', but here 'other0'"):
        list(federation.run(RunFolder.open(tmp_path / "run")))
    assert (tmp_path / "run" / "clients.json").read_bytes() == before


def test_a_federation_in_one_process_is_resumed_as_a_simulation(tmp_path: Path) -> None:
    config, file = configuration(
        tmp_path, rounds=5, method={"name": "pfedloru", "tau": 2}, output={"checkpoint_every": 2}
    )
    config = config._replace(output=config.output.model_copy(update={"dir": str(tmp_path / "run")}))
    run = api.start(config, local(config, file, tmp_path / "local"))
    rounds = iter(run)
    for _ in range(3):
        next(rounds)
    rounds.close()
    again = api.resume(tmp_path / "run")
    rows = list(again)
    expected = simulated(config)
    assert [row["round"] for row in rows] == [4, 5]
    assert same(again, expected)
    assert [row["personal"] for row in rows] == [row["personal"] for row in expected.rows[3:]]
