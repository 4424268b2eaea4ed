"""Clients that leave, come back, join late, or reply late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from fedloru.errors import FedloruError
from fedloru.flower import guests
from fedloru.flower import round as rounds
from fedloru.flower.client_app import client_app, in_process
from fedloru.flower.envelope import TRAIN
from tests.flower.grids import Grids, configuration, difference, same, simulated


def start(folder: Path, **sections: Any) -> Grids:
    config, file = configuration(folder, **({"federation": {"scores": False}} | sections))
    return Grids(config, file, folder)


def without(client: int, folder: Path, **sections: Any) -> Any:
    folder.mkdir()
    federation = start(folder, **sections)
    federation.leave(client)
    run = federation.run()
    list(run)
    return run


def leaving(federation: Grids, client: int, then: Callable[[], None] = lambda: None) -> None:
    """Let a client leave once, when it has received its first order, and call ``then``."""
    app = client_app(in_process(federation.members[client]))

    def leaves(message: Message, context: Context) -> Message:
        answer = app(message, context)
        if message.metadata.message_type == TRAIN:
            federation.leave(client)
            federation.grid.change = lambda sender, sent: None if sender == client else sent
            then()
        return answer

    federation.grid.apps[client] = leaves  # type: ignore[assignment]


def test_a_client_that_leaves_with_an_order_is_replaced(tmp_path: Path) -> None:
    federation = start(tmp_path)
    leaving(federation, 1)
    run = federation.run()
    rows = list(run)
    assert same(run, without(1, tmp_path / "other"))
    assert [row["federation"]["lost"] for row in rows if row["federation"]["lost"]] == [["c1"]]
    assert all(1 not in row["cohort"] and len(row["cohort"]) == 2 for row in rows)


def test_a_client_that_comes_back_in_the_same_round_is_asked_again(tmp_path: Path) -> None:
    federation = start(tmp_path)

    def back() -> None:
        federation.grid.change = lose_once
        federation.restart(1)

    def lose_once(client: int, message: Message) -> Message | None:
        if client == 1:
            federation.grid.change = None
            return None
        return message

    leaving(federation, 1, back)
    run = federation.run()
    rows = list(run)
    assert same(run, simulated(federation.config))
    assert sum(len(row["federation"]["lost"]) for row in rows) == 1


def test_a_client_that_was_away_catches_up_over_several_versions(tmp_path: Path) -> None:
    federation = start(
        tmp_path, rounds=8, method={"name": "fedloru", "tau": 1}, cohort={"size": 4}, federation={"quorum": 0.5}
    )
    run = federation.run()
    for row in run:
        if row["round"] == 2:
            federation.leave(2)
        if row["round"] == 5:
            federation.restart(2)
    assert [2 in row["cohort"] for row in run.rows] == [True] * 2 + [False] * 3 + [True] * 3
    assert federation.bases() == {(8, run.carrier._bases._hashes[8])}  # type: ignore[attr-defined]
    assert not any(row["federation"]["refused"] for row in run.rows)


def test_a_client_that_joins_late_and_one_that_is_enrolled_during_the_run_take_part(tmp_path: Path) -> None:
    federation = start(
        tmp_path, clients=5, rounds=6, cohort={"size": 5}, lowrank={"rank": 3, "capacities": {"2": 0.5}},
        method={"name": "mfedloru", "tau": 2}, federation={"quorum": 0.5},
    )  # fmt: skip
    federation.leave(3)
    run = federation.run()
    for row in run:
        if row["round"] == 3:
            federation.restart(3)
        if row["round"] == 4:
            federation.enroll(5, part=0)
            federation.grid.connect(5, client_app(in_process(federation.members[5])))
    assert [len(row["cohort"]) for row in run.rows] == [4, 4, 4, 5, 5, 5]
    assert any(5 in row["cohort"] for row in run.rows[4:])


def test_a_removed_client_takes_no_part_any_more(tmp_path: Path) -> None:
    federation = start(tmp_path, cohort={"size": 4})
    run = federation.run()
    for row in run:
        if row["round"] == 2:
            federation.roster.remove("c1", "key 1")
    assert [1 in row["cohort"] for row in run.rows] == [True, True, False, False]
    assert [len(row["cohort"]) for row in run.rows] == [4, 4, 3, 3]


def test_late_replies_are_dropped_and_counted(tmp_path: Path) -> None:
    federation = start(tmp_path, federation={"oversample": 1.0, "scores": False})
    run = federation.run()
    rows = list(run)
    assert [len(row["cohort"]) for row in rows] == [2] * 4
    assert [row["federation"]["late"] for row in rows] == [2] * 4
    assert [len(row["federation"]["clients"]) for row in rows] == [2] * 4


def test_a_client_beyond_the_deadline_is_replaced_and_its_late_reply_is_dropped(tmp_path: Path) -> None:
    federation = start(tmp_path, federation={"deadline": 0.01, "scores": False})
    kept: list[Message] = []

    def slow(client: int, message: Message) -> Message | None:
        if client == 1 and message.metadata.message_type == TRAIN:
            kept.append(message)
            return None
        return message

    federation.grid.change = slow
    run = federation.run()
    rows = list(run)
    assert kept
    assert same(run, without(1, tmp_path / "other"))
    assert {name for row in rows for name in row["federation"]["lost"]} == {"c1"}


def test_a_quorum_closes_a_round_when_nobody_is_left_to_ask(tmp_path: Path) -> None:
    federation = start(tmp_path, cohort={"size": 4}, federation={"deadline": 0.01, "quorum": 0.5, "scores": False})
    federation.grid.change = lambda client, message: (
        None if client in (0, 1) and message.metadata.message_type == TRAIN else message
    )
    assert [row["cohort"] for row in federation.run()] == [[2, 3]] * 4


def test_below_the_quorum_the_run_says_who_did_not_reply(tmp_path: Path) -> None:
    federation = start(tmp_path, cohort={"size": 4}, federation={"deadline": 0.01, "quorum": 1.0, "scores": False})
    federation.grid.change = lambda client, message: (
        None if client == 1 and message.metadata.message_type == TRAIN else message
    )
    with pytest.raises(FedloruError, match=r"round 1: 3 clients have replied, but the quorum is 4 .*c1: it did not"):
        list(federation.run())


def test_a_server_asks_again_when_what_prevented_a_reply_may_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "REMIND", 0.0)
    monkeypatch.setattr(guests, "START", 0.0)
    federation = start(tmp_path, cohort={"size": 4}, federation={"deadline": 0.01, "quorum": 1.0, "scores": False})
    federation.options["pause"] = 0.001
    lost: list[int] = []

    def twice(client: int, message: Message) -> Message | None:
        if client == 1 and message.metadata.message_type == TRAIN and len(lost) < 5:
            lost.append(client)
            return None
        return message

    federation.grid.change = twice
    run = federation.run()
    list(run)
    assert len(lost) == 5
    assert difference(run.state, simulated(federation.config).state) == 0.0


def test_a_duplicate_and_an_unasked_answer_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = start(tmp_path)
    pull, every = federation.grid.pull_messages, list[Message]()

    def again(ids: Any) -> list[Message]:
        every.extend(pull(ids))
        return list(every) + list(every[:1])

    monkeypatch.setattr(federation.grid, "pull_messages", again)
    run = federation.run()
    list(run)
    assert same(run, simulated(federation.config))


def test_a_message_that_cannot_be_sent_is_as_a_client_that_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = start(tmp_path)
    push = federation.grid.push_messages

    def failing(messages: Any) -> list[str]:
        sent = list(messages)
        if sent[0].metadata.dst_node_id == 3 and sent[0].metadata.message_type == TRAIN:
            return [""]
        return list(push(sent))

    monkeypatch.setattr(federation.grid, "push_messages", failing)
    run = federation.run()
    list(run)
    assert same(run, without(1, tmp_path / "other"))
