"""The client's side: its state directory, what it allows, and its data."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch

from fedloru import files
from fedloru.errors import RunFolderError
from fedloru.flower import member as members
from fedloru.flower import protocol, state
from fedloru.flower.client_app import client_app, in_process, respond
from fedloru.flower.envelope import HELLO, TRAIN, Enclosed
from fedloru.flower.member import Member
from fedloru.flower.once import in_new_process
from fedloru.flower.protocol import Hello, Report
from fedloru.flower.site import Source, build
from fedloru.flower.state import StateFolder
from fedloru.flower.terms import Terms
from fedloru.run import client_state
from tests.double import DOUBLE
from tests.flower.grids import CLASSES, FEATURES, Grids, configuration, same, simulated


def start(folder: Path, **sections: Any) -> Grids:
    config, file = configuration(folder, **({"federation": {"scores": False}} | sections))
    return Grids(config, file, folder)


FILES = ("terms.json", "base.json", "base-*.safetensors", "reply.json", "reply.bin", "node.json")
DAMAGE = {"empty": b"", "garbage": b"\x00\xff" * 40, "a list": b"[1]", "other types": b'{"id": "x", "run": 1}'}


@pytest.mark.parametrize("damage", [*DAMAGE, "half", "removed"])
def test_a_client_recovers_from_damage_to_any_file(damage: str, tmp_path: Path) -> None:
    federation = start(tmp_path, rounds=3, method={"name": "fedloru", "tau": 1}, cohort={"size": 4})
    run = federation.run()
    for row in run:
        for pattern in FILES if row["round"] < 3 else ():
            for path in (tmp_path / "state-1").glob(pattern):
                if damage == "removed":
                    path.unlink()
                else:
                    path.write_bytes(DAMAGE.get(damage, path.read_bytes()[: path.stat().st_size // 2]))
        federation.restart(1)
    assert same(run, simulated(federation.config))
    assert StateFolder(tmp_path / "state-1").node == 0


def test_weights_with_a_flipped_bit_are_received_again(tmp_path: Path) -> None:
    federation = start(tmp_path, rounds=3, method={"name": "fedloru", "tau": 1}, cohort={"size": 4})
    run = federation.run()
    for row in run:
        if row["round"] == 2:
            path = next((tmp_path / "state-1").glob("base-*.safetensors"))
            data = bytearray(path.read_bytes())
            data[-3] ^= 1
            path.write_bytes(data)
            federation.restart(1)
    assert same(run, simulated(federation.config))


@pytest.mark.parametrize("content", [b"{", b'{"rounds": "1"}', b'{"rounds": -1}', b'{"bytes": 1.5}'])
def test_a_client_whose_usage_is_not_known_says_so_and_does_not_take_part(content: bytes, tmp_path: Path) -> None:
    federation = start(tmp_path)
    (tmp_path / "state-1" / "usage.json").write_bytes(content)
    run = federation.run()
    assert all(1 not in row["cohort"] for row in run)
    reason = run.carrier.guests.problems[1]  # type: ignore[attr-defined]
    assert "usage.json is damaged" in reason and "counts its rounds" in reason


def _full(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[int]:
    """Fail at the write number ``at``, as on a full disk; yields the number of writes."""
    count = [0]
    write = files.write_atomic

    def failing(path: Path, data: bytes, **options: Any) -> None:
        if "state-1" in str(path):
            count[0] += 1
            if count[0] == at:
                path.with_name(f".{path.name}.tmp").write_bytes(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data, **options)

    monkeypatch.setattr(state, "write_atomic", failing)
    monkeypatch.setattr(client_state, "write_atomic", failing)
    while True:
        yield count[0]


def test_a_full_disk_fails_the_round_of_that_client_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections: dict[str, Any] = {"rounds": 3, "method": {"name": "pfedloru", "tau": 1}, "cohort": {"size": 4}}
    at, failed = 1, True
    while failed:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        federation = start(folder, **sections)
        with monkeypatch.context() as context:
            writes = _full(context, at)
            next(writes)
            run = federation.run()
            rows = list(run)
            failed = next(writes) >= at
        refused = [entry for row in rows for entry in row["federation"]["refused"]]
        if failed and at > 1:  # the first write is that of the terms, before the first round
            assert [entry["client"] for entry in refused] == ["c1"], at
            assert "No space left on device" in refused[0]["reason"]
            absent = [row["round"] for row in rows if 1 not in row["cohort"]]
            assert len(absent) <= 1
            hashes = run.carrier._bases._hashes  # type: ignore[attr-defined]
            assert all(hashes[version] == base for version, base in federation.bases())
        at += 4 if at > 8 else 1
    assert at > 10


def test_a_second_client_on_a_state_directory_is_refused(tmp_path: Path) -> None:
    with (
        StateFolder(tmp_path).alone(),
        pytest.raises(RunFolderError, match="process"),
        StateFolder(tmp_path).alone(),
    ):
        pass


def _requests(federation: Grids, client: int) -> list[tuple[str, Enclosed, Enclosed]]:
    """Run the federation, and return the requests to a client with its answers."""
    seen: list[tuple[str, Enclosed, Enclosed]] = []
    answer = in_process(federation.members[client])

    def recorded(kind: str, request: Enclosed) -> Enclosed:
        done = answer(kind, request)
        seen.append((kind, request, done))
        return done

    federation.grid.connect(client, client_app(recorded))
    list(federation.run())
    return seen


def test_a_repeated_order_is_answered_without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = start(tmp_path, cohort={"size": 4})
    _, request, answer = _requests(federation, 1)[-1]
    usage = StateFolder(tmp_path / "state-1").usage()
    monkeypatch.setattr(members, "train", None)
    for each in (federation.members[1], federation.member(1)):
        assert respond(each, TRAIN, request) == answer
    assert StateFolder(tmp_path / "state-1").usage() == usage


@pytest.mark.slow
def test_a_new_process_for_each_request_gives_the_same_bits(tmp_path: Path) -> None:
    federation = start(tmp_path, rounds=2, method={"name": "pfedloru", "tau": 1}, cohort={"size": 4})
    seen = _requests(federation, 1)
    again = in_new_process(tmp_path / "again", federation.members[1].source, federation.terms)
    for kind, request, expected in seen:
        answer = again(kind, request)
        assert answer.tensors == expected.tensors
        if kind == TRAIN:
            found, wanted = (protocol.parse(each.text, Report, "") for each in (answer, expected))
            assert found.model_copy(update={"seconds": 0}) == wanted.model_copy(update={"seconds": 0})


TERMS = {
    "--max-epochs": Terms(epochs=1),
    "--max-rounds": Terms(rounds=2),
    "--max-bytes-per-day": Terms(bytes_per_day=3000),
    "--allow": Terms(),
}


@pytest.mark.parametrize("option", list(TERMS))
def test_a_client_refuses_what_it_does_not_allow(option: str, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"client": {"epochs": 2}, "cohort": {"size": 4}}
    if option == "--allow":
        sections["model"] = {"name": DOUBLE}
    federation = start(tmp_path, **sections)
    federation.restart(1, TERMS[option])
    run = federation.run()
    rows = list(run)
    took = sum(1 in row["cohort"] for row in rows)
    assert took == (2 if option == "--max-rounds" else took if "bytes" in option else 0)
    assert took < 4
    assert option in run.carrier.guests.problems[1]  # type: ignore[attr-defined]


@pytest.fixture
def hello(tmp_path: Path) -> Hello:
    federation = start(tmp_path)
    terms: Hello = federation.run().carrier._terms  # type: ignore[attr-defined]
    return terms.model_copy(update={"name": "c0"})


def _greeted(hello: Hello, source: Source, folder: Path) -> protocol.Greeting | protocol.Refusal:
    member = Member(StateFolder(folder), source, Terms())
    answer = respond(member, HELLO, Enclosed(protocol.text(hello)))
    return protocol.answer(answer.text, protocol.Greeting, "c0")


def _data(folder: Path, **arrays: Any) -> Source:
    x = np.random.default_rng(0).normal(size=(30, FEATURES)).astype(np.float32)
    np.savez(
        folder / "own.npz",
        **({"x": x, "y": np.arange(30) % CLASSES, "x_test": x, "y_test": np.arange(30) % CLASSES} | arrays),
    )
    return Source(folder / "own.npz")


BAD_DATA: dict[str, tuple[dict[str, Any], str]] = {
    "features": ({"x": np.ones((30, 5)), "x_test": np.ones((30, 5))}, "of shape"),
    "classes": ({"y": np.array(["a", "b", "c"] * 10), "y_test": np.array(["a"] * 30)}, "does not have"),
    "rows": ({"y": np.arange(7)}, "7 labels"),
}


@pytest.mark.parametrize("case", list(BAD_DATA))
def test_other_data_than_the_servers_is_refused(case: str, hello: Hello, tmp_path: Path) -> None:
    arrays, reason = BAD_DATA[case]
    answer = _greeted(hello, _data(tmp_path, **arrays), tmp_path / "own")
    assert isinstance(answer, protocol.Refusal) and answer.leave
    assert reason in answer.reason and "Traceback" not in answer.reason


def test_classes_are_mapped_and_values_rescaled_to_those_of_the_server(hello: Hello, tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    x, y = draw.normal(5, 3, size=(30, FEATURES)).astype(np.float32), np.array(["c", "a"] * 15)
    names = hello.model_copy(update={"classes": ["c", "b", "a"]})
    site = build(_data(tmp_path, x=x, y=y, x_test=x, y_test=y), names)
    assert site.plan.dataset.train["y"].tolist() == [0, 2] * 15
    expected = (torch.from_numpy(x) - torch.tensor(hello.mean)) / torch.tensor(hello.std)
    torch.testing.assert_close(site.plan.dataset.train["x"], expected)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another protocol": ({"protocol": 99}, "speaks protocol 99, this client 1"),
    "another fedloru": ({"fedloru": "99.0"}, "the server runs fedloru 99.0"),
    "another flwr": ({"flwr": "0.9"}, "the server runs flwr 0.9"),
    "another W0": ({"run": "ab" * 16, "sends_base": False}, "have the hash"),
    "an unknown model": ({"config": {"model": {"name": "transformer9"}}}, "transformer9"),
    "an unknown section": ({"config": {"more": 1}}, "more"),
    "no table": ({"config": {"model": 3}}, "model"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_a_federation_that_the_client_cannot_join_is_refused(case: str, hello: Hello, tmp_path: Path) -> None:
    values, reason = REFUSED[case]
    changed = hello.model_copy(update=values | {"config": hello.config | values.get("config", {})})
    answer = _greeted(changed, Source(tmp_path / "config.toml", part=0), tmp_path / "own")
    assert isinstance(answer, protocol.Refusal) and answer.leave, answer
    assert reason in answer.reason


@pytest.mark.parametrize("part", [4, 99, -1])
def test_a_part_out_of_range_is_refused(part: int, hello: Hello, tmp_path: Path) -> None:
    answer = _greeted(hello, Source(tmp_path / "config.toml", part=part), tmp_path / "own")
    assert isinstance(answer, protocol.Refusal)
    assert f"--part is {part}, but the partition has 4 parts" in answer.reason


def test_a_server_cannot_choose_the_files_of_a_client(hello: Hello, tmp_path: Path) -> None:
    secret = {"source": "npz", "path": str(tmp_path / "secret.npz"), "test": str(tmp_path / "secret.npz")}
    changed = hello.model_copy(update={"config": hello.config | {"data": secret, "output": {"dir": "/x"}}})
    (tmp_path / "own.toml").write_bytes(tomli_w.dumps({"seed": 3}).encode())
    answer = _greeted(changed, Source(tmp_path / "own.toml"), tmp_path / "own")
    assert isinstance(answer, protocol.Refusal)
    assert "secret" not in answer.reason
