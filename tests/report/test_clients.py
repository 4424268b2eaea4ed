import json
from pathlib import Path

import pytest

from fedloru.errors import RunFolderError
from fedloru.report import page, read, write
from fedloru.report.clients import ROWS, clients, table
from fedloru.report.participation import CLIENTS, ROUNDS, participation

from .made_up import write_federation
from .test_page import Parsed

NAMES = ["berlin", "paris", "rome"]


def rewrite(folder: Path, change: dict[str, object], keep: int = 1) -> None:
    """Change what the last ``keep`` rows of a run say about clients."""
    path = folder / "rounds.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-keep:] = [row | {"federation": row["federation"] | change} for row in rows[-keep:]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_table_names_the_clients(tmp_path: Path) -> None:
    head, rows = table(read(write_federation(tmp_path / "run", NAMES)))
    assert head == [
        *("client", "rounds", "examples", "loss", "time", "MB up", "MB down", "refused", "lost"),
        "accuracy, own test",
    ]
    assert rows == [
        ["berlin", "0", "–", "–", "–", "0.000", "0.084", "12", "0", "–"],
        ["paris", "6", "100", "0.083", "2.00 s", "0.030", "0.084", "0", "6", "–"],
        ["rome", "12", "101", "0.083", "2.00 s", "0.060", "0.096", "0", "0", "75.0 %"],
    ]


def test_the_page_shows_clients_participation_and_refusals(tmp_path: Path) -> None:
    parsed = Parsed(page(read(write_federation(tmp_path / "run", NAMES))))
    assert "participation" in parsed.ids and "examples-per-client" not in parsed.ids
    for expected in (
        "Clients by name",
        "Replies that were not used",
        "12 berlin its update has the norm 9; expected at most 5",
        "Each client trains on its own data, which the server does not know.",
        "clients 3 clients that took part 2 their training examples, as they state 201",
        "Data of the server test examples 359",
    ):
        assert expected in parsed.text
    assert "scheme" not in parsed.text.partition("Configuration (TOML)")[0]


def test_the_page_of_a_simulation_has_no_clients(run: Path) -> None:
    parsed = Parsed(page(read(run)))
    assert "participation" not in parsed.ids and "Clients by name" not in parsed.text


def test_a_federation_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    folder = write_federation(tmp_path / "run", NAMES)
    (folder / "rounds.jsonl").write_text("")
    text = Parsed(page(read(folder))).text
    assert "clients 3" in text and "as they state" not in text and "Clients by name" not in text


def test_rows_of_earlier_versions_have_a_page(tmp_path: Path) -> None:
    folder = write_federation(tmp_path / "run", NAMES)
    (folder / "clients.json").unlink()
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for row in rows:
        del row["client_scores"], row["federation"]["asked"], row["federation"]["down_bytes"]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert {client.name for client in clients(read(folder))} == set(NAMES)
    assert "accuracy, own test" not in Parsed(page(read(folder))).text


def test_clients_that_never_took_part_are_in_the_table(tmp_path: Path) -> None:
    folder = write_federation(tmp_path / "run", NAMES)
    (folder / "clients.json").write_text(json.dumps([*NAMES, "oslo"]))
    assert [client.name for client in clients(read(folder))] == [*NAMES, "oslo"]
    assert table(read(folder))[1][-1] == ["oslo", "0", "–", "–", "–", "0.000", "0.000", "0", "0", "–"]


def test_a_client_that_replied_after_it_was_lost_has_replied(tmp_path: Path) -> None:
    folder = write_federation(tmp_path / "run", NAMES, rounds=2)
    rewrite(folder, {"lost": ["rome", "rome"], "refused": [{"client": "rome", "reason": "late"}]})
    grid = participation(read(folder)).data[0]
    assert [list(line) for line in grid.text] == [["refused", ""], ["lost", "replied"], ["replied", "replied"]]


EVIL = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\ud800\x1b[31m\u202eberlin",
    "n" * 9999,
    "",
]


def test_names_and_reasons_are_escaped_and_bounded(tmp_path: Path) -> None:
    folder = write_federation(tmp_path / "run", EVIL, rounds=3)
    rewrite(folder, {"refused": [{"client": name, "reason": name} for name in EVIL]}, keep=3)
    text = write(folder).read_text("utf-8")
    parsed = Parsed(text)
    assert "<script>alert" not in text and "<img" not in text.replace(max(parsed.scripts, key=len), "")
    assert "\x1b" not in text and "\u202e" not in text and "n" * 400 not in text
    assert r"\ud800\x1b[31m\u202eberlin" in parsed.text and "not recorded" in parsed.text


def test_large_federations_are_bounded(tmp_path: Path) -> None:
    names = [f"client-{number:03d}" for number in range(ROWS + 50)]
    folder = write_federation(tmp_path / "run", names, rounds=2)
    rewrite(folder, {"lost": names[-2:], "refused": [{"client": names[7], "reason": "x"}] * 90})
    records = read(folder)
    shown = [row[0] for row in table(records)[1]]
    assert len(shown) == ROWS and {names[0], names[7], *names[-2:]} <= set(shown)
    labels = participation(records).layout.yaxis.ticktext
    assert len(labels) == CLIENTS and {names[0], names[7], *names[-2:]} <= set(labels)
    text = Parsed(page(records)).text
    assert f"The {ROWS} of {len(names)} clients with the most refused or lost requests." in text
    assert "The last 50 of 91." in text


def test_the_figure_shows_the_last_rounds_of_a_long_run(tmp_path: Path) -> None:
    records = read(write_federation(tmp_path / "run", NAMES, rounds=3))
    many = records._replace(rounds=[row | {"round": n} for n in range(1, 201) for row in records.rounds])
    grid = participation(many).data[0]
    assert len(grid.x) == len(grid.z[0]) == ROUNDS and grid.x[-1] == 200


@pytest.mark.parametrize(
    "change",
    [
        {"clients": ["berlin"]},
        {"clients": {"berlin": {"examples": -1, "loss": 0.5, "seconds": 1.0, "up_bytes": 1, "down_bytes": 1}}},
        {"clients": {"berlin": {"examples": 1}}},
        {"refused": [{"reason": "no client"}]},
        {"refused": "berlin"},
        {"lost": [1]},
        {"down_bytes": {"berlin": "1"}},
        {"asked": -1},
        {"late": None},
    ],
)
def test_damaged_rows_are_reported(tmp_path: Path, change: dict[str, object]) -> None:
    folder = write_federation(tmp_path / "run", NAMES, rounds=2)
    rewrite(folder, change, keep=2)
    with pytest.raises(RunFolderError, match=r"rounds\.jsonl, line 1: federation\."):
        read(folder)


@pytest.mark.parametrize("content", ["{}", "[1]", '["berlin", null]', "", "[", '"berlin"'])
def test_damaged_names_are_reported(tmp_path: Path, content: str) -> None:
    folder = write_federation(tmp_path / "run", NAMES, rounds=1)
    (folder / "clients.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"clients\.json"):
        read(folder)
