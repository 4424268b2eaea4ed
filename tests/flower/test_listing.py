"""The table of ``fedloru clients``."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedloru.cli import app
from fedloru.flower.roster import Roster, Seen
from fedloru.flower.serve import SERVER
from fedloru.run.lock import alone


def shown(home: Path) -> str:
    result = CliRunner().invoke(app, ["clients", "--dir", str(home)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def home(tmp_path: Path) -> Path:
    roster = Roster(tmp_path)
    for name in ("berlin", "paris", "rome"):
        roster.enroll(name, f"the key of {name}")
    roster.remove("rome", "the key of rome")
    last = "2026-01-02T03:04:05+00:00"
    values = {"fedloru": "0.1.0", "version": 3, "round": 1234, "examples": 1234567, "up_bytes": 1234567890}
    seen = Seen(online=True, last_seen=last, accuracy=0.987, problem="its update has the norm [7]", **values)
    roster.see({"berlin": seen})
    return tmp_path


def test_every_value_fits_into_80_columns(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (home / SERVER).mkdir()
    with alone(home / SERVER):
        lines = shown(home).splitlines()
    assert " ".join(lines[1].split()) == "berlin online 01-02 03:04 0.1.0 3 1234 1,234,567 1,234.57 0.00 98.7 %"
    assert [line.split() for line in lines[2:4]] == [["paris", "away", "never"], ["rome", "removed", "never"]]
    assert lines[4] == "berlin: its update has the norm [7]"


def test_nobody_is_online_without_a_server(home: Path) -> None:
    assert "not running" in shown(home) and "online" not in shown(home)
