"""Faulty and hostile clients: what they send is refused by name, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloru import wire
from fedloru.errors import FedloruError
from fedloru.flower.envelope import BYTES, HELLO, TENSORS, TEXT, TRAIN, Enclosed, enclosed, record
from fedloru.method import Down
from tests.flower.corruptions import BAD, FAULTS, answered, corrupting, each, spoiled, table
from tests.flower.grids import Grids, configuration, same


def start(folder: Path) -> Grids:
    rules = {"scores": False, "max_norm": 1e3}
    method = {"name": "fedloru", "tau": 1}
    config, file = configuration(folder, rounds=2, method=method, cohort={"size": 3}, federation=rules)
    return Grids(config, file, folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Grids:
    return start(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def federation(shared: Grids) -> Grids:
    """A federation whose clients may have taken part in earlier runs, and are ahead of a new server."""
    shared.grid.change = None
    return shared


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run without the faulty client."""
    federation = start(tmp_path_factory.mktemp("without"))
    federation.leave(BAD)
    run = federation.run()
    list(run)
    return run


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_faulty_reply_is_refused_and_changes_nothing(
    fault: str, federation: Grids, without: Any, caplog: pytest.LogCaptureFixture
) -> None:
    corrupt, reason = FAULTS[fault]
    federation.grid.change = corrupting(corrupt)
    run = federation.run()
    rows = list(run)
    assert same(run, without)
    refused = [entry for row in rows for entry in row["federation"]["refused"]]
    assert {entry["client"] for entry in refused} == {f"c{BAD}"}
    assert all(reason in entry["reason"] for entry in refused), refused[0]
    assert all(BAD not in row["cohort"] and len(row["cohort"]) == 3 for row in rows)
    assert f"the reply of c{BAD} is not used" in caplog.text


RECORDS: dict[str, RecordDict] = {
    "nothing": RecordDict(),
    "other records": RecordDict({"arrays": ArrayRecord()}),
    "text in an array": RecordDict({TEXT: ArrayRecord()}),
    "text of another type": RecordDict({TEXT: ConfigRecord({TEXT: "words"})}),
    "no array": RecordDict({TEXT: ConfigRecord({TEXT: b"{}"}), TENSORS: ArrayRecord()}),
    "a list of arrays": RecordDict({TEXT: ConfigRecord({TEXT: b"{}"}), TENSORS: ConfigRecord({TENSORS: b"x"})}),
    "an array of Flower": RecordDict(
        {
            TEXT: ConfigRecord({TEXT: b"{}"}),
            TENSORS: ArrayRecord({TENSORS: Array("uint8", (1,), "numpy.ndarray", b"x")}),
        }
    ),
    "two arrays": RecordDict(
        {
            TEXT: ConfigRecord({TEXT: b"{}"}),
            TENSORS: ArrayRecord({name: Array("uint8", (1,), BYTES, b"x") for name in (TENSORS, "more")}),
        }
    ),
}


@pytest.mark.parametrize("name", list(RECORDS))
def test_other_records_than_text_and_bytes_change_nothing(name: str, federation: Grids, without: Any) -> None:

    def change(client: int, message: Message) -> Message:
        bad = client == BAD and message.metadata.message_type == TRAIN
        return answered(message, RECORDS[name]) if bad else message

    federation.grid.change = change
    run = federation.run()
    rows = list(run)
    assert same(run, without)
    assert {entry["client"] for row in rows for entry in row["federation"]["refused"]} == {f"c{BAD}"}


def test_a_replayed_reply_is_refused(federation: Grids, without: Any) -> None:
    first: list[Enclosed] = []

    def replay(sent: Enclosed) -> Enclosed:
        first.append(sent)
        return first[0]

    def replay_tensors(sent: Enclosed) -> Enclosed:
        first.append(sent)
        return sent._replace(tensors=first[0].tensors)

    for corrupt, reason in ((replay, "answers the request"), (replay_tensors, "has round")):
        first.clear()
        federation.grid.change = corrupting(corrupt)
        run = federation.run()
        rows = list(run)
        refused = [entry["reason"] for row in rows for entry in row["federation"]["refused"]]
        took = [row["round"] for row in rows if BAD in row["cohort"]]
        assert len(took) == 1 and refused and all(reason in each for each in refused)


GREETINGS: dict[str, tuple[dict[str, Any], str]] = {
    "a billion examples": ({"examples": 10**9}, "states 1,000,000,000 examples"),
    "no examples": ({"examples": 0}, "states 0 examples"),
    "another fedloru": ({"fedloru": "99.1.0"}, "runs fedloru 99.1.0"),
    "another flwr": ({"flwr": "1.2.3"}, "runs flwr 1.2.3"),
    "a version of two lines": ({"flwr": "9\nforged: 1"}, "flwr 9\\nforged: 1"),
    "a huge version": ({"held": 2**63}, "held"),
    "a missing field": ({"tests": None}, "tests"),
}


@pytest.mark.parametrize("name", list(GREETINGS))
def test_a_client_with_an_unacceptable_greeting_takes_no_part(name: str, federation: Grids, without: Any) -> None:
    values, reason = GREETINGS[name]

    def corrupt(sent: Enclosed) -> Enclosed:
        return table(**values)(sent) if b'"kind":"greeting"' in sent.text else sent

    federation.grid.change = corrupting(corrupt, HELLO)
    run = federation.run()
    list(run)
    assert same(run, without)
    assert reason in run.carrier.guests.problems[BAD]  # type: ignore[attr-defined]
    assert reason in federation.roster.seen()[f"c{BAD}"].problem


@pytest.mark.parametrize("held", [0, 3, 2**62])
def test_a_client_that_lies_about_its_base_receives_what_it_says_it_lacks(held: int, federation: Grids) -> None:
    federation.grid.change = corrupting(table(held=held, base="ab" * 16), HELLO)
    run = federation.run()
    rows = list(run)
    federation.grid.change = None
    honest = federation.run()
    list(honest)
    assert same(run, honest)
    assert not any(row["federation"]["refused"] for row in rows)


def test_a_reason_is_one_line_in_records_and_logs(federation: Grids, caplog: pytest.LogCaptureFixture) -> None:
    refusal = json.dumps({"kind": "refusal", "reason": "no\n\x1b[31mround 9: forged \ud800", "leave": True})
    federation.grid.change = corrupting(lambda sent: Enclosed(refusal.replace(": ", ":").encode()))
    rows = list(federation.run())
    reasons = [entry["reason"] for row in rows for entry in row["federation"]["refused"]]
    assert reasons and all(reason.isprintable() for reason in reasons)
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize("quorum", [0.5, 1.0])
def test_if_all_clients_refuse_the_run_says_why(quorum: float, tmp_path: Path) -> None:
    config, file = configuration(tmp_path, federation={"quorum": quorum})
    federation = Grids(config, file, tmp_path)
    federation.grid.change = lambda client, message: (
        answered(message, record(each(spoiled)(enclosed(message, ""))))
        if message.metadata.message_type == TRAIN
        else message
    )
    with pytest.raises(FedloruError, match=r"round 1: 0 clients have replied, but the quorum is .*c0: .*not finite"):
        list(federation.run())


@pytest.fixture(scope="module")
def reply(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A request of a server, and the reply of a client."""
    federation = start(tmp_path_factory.mktemp("reply"))
    seen: list[Enclosed] = []
    federation.grid.change = corrupting(lambda sent: seen.append(sent) or sent)  # type: ignore[func-returns-value]
    run = federation.run()
    next(iter(run))
    return federation, run, seen


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_corruptions_of_a_reply_are_refused(data: st.DataObject, reply: Any) -> None:
    from fedloru.flower import protocol
    from fedloru.flower.protocol import Report

    _, run, seen = reply
    text, sent = seen[0]
    place = st.integers(0, len(text) + len(sent) - 1)
    both = bytearray(text + sent)
    for position, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8)):
        both[position] = value
    cut = data.draw(st.one_of(st.just(len(both)), place))
    changed = Enclosed(bytes(both[: len(text)]), bytes(both[len(text) : cut]))
    spec = run.carrier._requests.spec(())
    try:
        report = protocol.answer(changed.text, Report, "a client")
        assert not isinstance(report, Report) or wire.decode_up(
            changed.tensors, spec, Down({}), round=1, version=0, client=BAD
        )
    except FedloruError as error:
        assert str(error).isprintable() or "\n" not in str(error)
    else:
        assert changed.tensors == sent or not isinstance(report, Report)
