"""What commands print for programs: JSON, uncut tables without control codes, tracebacks on request."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedloru import config as configs
from fedloru.cli import view
from fedloru.cli.output import print_json
from fedloru.flower.roster import Roster, Seen
from fedloru.methods import METHODS
from fedloru.presets import presets
from tests.cli.conftest import QUICK, Cli

DOCS = Path(__file__).parents[2] / "docs" / "json.md"


def documented(command: str) -> set[str]:
    """Return the keys that the page lists for a command."""
    rows = re.findall(r"^\| (`.+`) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    (keys,) = [keys for names, keys in rows if f"`{command}`" in names]
    return set(re.findall(r"`(\w+)`", keys))


def answer(cli: Cli, *args: str) -> dict[str, Any]:
    """Run a command with --json, and check that its keys are those of the documentation."""
    record: dict[str, Any] = json.loads(cli(*args, "--json").stdout)
    assert record.keys() == documented(args[0])
    return record


def test_presets(cli: Cli) -> None:
    assert [row["name"] for row in answer(cli, "presets")["presets"]] == list(presets())


def test_the_configuration(cli: Cli) -> None:
    record = json.loads(cli("config", "small", "-s", "method.tau=inf", "--json").stdout)
    assert record["method"]["tau"] == "inf" and documented("config") < record.keys()
    assert record["client"] == json.loads(json.dumps(configs.dump(configs.load("small"))["client"]))


def test_methods_have_the_rows_of_the_table(cli: Cli) -> None:
    record = answer(cli, "methods", "small")
    assert [row["method"] for row in record["methods"]] == list(METHODS)
    shown = cli("methods", "small").stdout.splitlines()
    for row in record["methods"]:
        (line,) = [line for line in shown if line.split()[:1] == [row["method"]]]
        assert row["problem"] or f"{row['up_bytes'] / 1e3:,.1f}" in line.split()
    assert record["profiles"] == []
    assert [row for row in record["methods"] if row["problem"]]


def test_the_audit_has_all_clients(cli: Cli) -> None:
    record = answer(cli, "audit", "small", "-s", "partition.scheme=iid", "-s", "partition.clients=30")
    assert len(record["examples_by_class"]) == record["clients"] == 30
    assert sum(row["all"] for row in record["examples_by_class"]) == record["training_examples"] == 1438
    assert all(sum(row["classes"].values()) == row["all"] for row in record["examples_by_class"])


def test_the_cost_is_that_of_the_table(cli: Cli) -> None:
    ranked = ("small", *QUICK, "-s", "method.name=mfedloru", "-s", "lowrank.capacities={1=0.3}")
    record = answer(cli, "cost", *ranked)
    shown = cli("cost", *ranked).stdout
    for row in [*record["bytes"], record["total"]]:
        assert f"{row['down'] / 1e6:,.3f}" in shown and row["both"] == row["down"] + row["up"]
    assert sum(row["both"] for row in record["bytes"]) == record["total"]["both"]
    assert [row["profile"] for row in record["profiles"]] == ["usual", "rank 1", "all"]
    assert record["profiles"][-1]["bytes"] == record["total"]["both"]


def test_a_run_prints_its_summary_and_shows_progress_on_stderr(cli: Cli) -> None:
    result = cli("run", "small", *QUICK, "--out", "r", "--json")
    record = json.loads(result.stdout)
    assert record.keys() == documented("run") and record["folder"] == "r"
    written = json.loads(Path("r/summary.json").read_text())
    assert {key: record["summary"][key] for key in ("final_accuracy", "bytes", "merges")} == {
        key: written[key] for key in ("final_accuracy", "bytes", "merges")
    }
    assert "round 6/6" in result.stderr
    assert json.loads(cli("resume", "r", "--json").stdout)["summary"]["rounds"] == 6  # which is finished
    assert cli("run", "small", *QUICK, "--out", "quiet", "--json", "--quiet").stderr == ""


def test_clients_of_a_federation(cli: Cli, tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    for name in ("berlin", "paris"):
        roster.enroll(name, f"the key of {name}")
    roster.see({"berlin": Seen(online=True, last_seen="2026-01-02T03:04:05+00:00", round=3, problem="late")})
    record = answer(cli, "clients", "--dir", str(tmp_path))
    berlin, paris = record["clients"]
    assert (berlin["round"], berlin["problem"], berlin["status"]) == (3, "late", "away") and not record["running"]
    assert paris["last_seen"] is None and paris.keys() == berlin.keys()


def test_analyses_print_what_they_would_write(cli: Cli) -> None:
    pytest.importorskip("scipy")
    few = ("-s", "model.hidden=[4]", "-s", "lowrank.rank=1", "--top", "1")
    effort = ("--clients", "0", "--probes", "1", "--steps", "3", "--tolerance", "9", "--quiet")
    record = answer(cli, "rank", "small", *few, *effort, "--out", "ranks.json")
    assert record == json.loads(Path("ranks.json").read_text()) and len(record["records"]) == 1
    record = answer(cli, "align", "small", *few, "--clients", "2", "--quiet", "--out", "alignment.json")
    assert record == json.loads(Path("alignment.json").read_text())


def test_errors_leave_stdout_empty(cli: Cli) -> None:
    assert cli("cost", "small", "-s", "rounds=0", "--json", code=2).stdout == ""


def test_numbers_that_json_lacks_are_strings(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), -float("inf")], "b": 1.5, 3: None})
    assert json.loads(capsys.readouterr().out) == {"a": ["nan", "-inf"], "b": 1.5, "3": None}


def test_a_comparison(cli: Cli) -> None:
    vary = ("--vary", "method.name=fedavg,fedloru", *QUICK)
    record = answer(cli, "compare", "--config", "small", *vary, "--target", "0.5")
    assert [row["group"] for row in record["groups"]] == ["FedAvg", "FedLoRU"] and record["metric"] == "accuracy"
    assert record["groups"][1]["bytes"] < record["groups"][0]["bytes"]


def test_piped_tables_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, a long value stays on its line, and there are no control codes."""
    for variable in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    code = (
        "from fedloru.cli.output import console; from fedloru.report.columns import Column, Listing;"
        "console().print(Listing([Column('a', 'a'), Column('b', 'b')], [{'a': 'word ' * 60, 'b': 'end'}], 't').table())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if "word" in line]
    assert line.count("word") == 60 and "end" in line and "\x1b" not in done.stdout


@pytest.mark.parametrize("place", ["before", "after"])
def test_verbose_shows_what_happens(cli: Cli, place: str) -> None:
    args = ["-v", "run", "small", *QUICK] if place == "before" else ["run", "small", *QUICK, "-v"]
    assert "Info: engine " in cli(*args, "--out", "r").stderr
    assert logging.getLogger("fedloru").level == logging.NOTSET
    assert "Info: " not in cli("run", "small", *QUICK, "--out", "other").stderr


def test_an_unexpected_error_has_a_traceback_only_if_asked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr("fedloru.config.load", broken)
    message = cli("config", "small", code=1).stderr
    assert "Error: ZeroDivisionError: by design" in message and "with -v to see the traceback" in message
    shown = CliRunner().invoke(view.app, ["config", "small", "--verbose"])
    assert shown.exit_code == 1 and "Traceback (most recent call last)" in shown.stderr and "in broken" in shown.stderr


def completed(words: str) -> list[str]:
    """Return what bash is offered for the last of ``words``."""
    env = os.environ | {"_FEDLORU_COMPLETE": "complete_bash", "COMP_WORDS": words, "TERM": "dumb"}
    env["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    done = subprocess.run([sys.executable, "-m", "fedloru"], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_shell_completes_commands_presets_and_settings(cli: Cli) -> None:
    Path("runs/first").mkdir(parents=True)
    Path("runs/first/config.toml").touch()
    Path("sites.toml").touch()
    assert completed("fedloru au") == ["audit"]
    assert completed("fedloru run s") == ["small", "sst2", "stories", "sites.toml"]
    assert completed("fedloru run -s method.na") == ["method.name="]
    assert "method.name=fedloru" in completed("fedloru cost -s method.name=fedl")
    assert completed("fedloru resume ru") == ["runs/first"]
    assert completed("fedloru run -s client.fl") == ["client.flip="]


def test_completion_scripts_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    script = [sys.executable, "-m", "fedloru", "--show-completion", "zsh"]
    assert "compdef" in subprocess.run(script, capture_output=True, text=True, check=True).stdout
