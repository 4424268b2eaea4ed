"""The commands that only look."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from fedloru.config import load, parse, presets
from fedloru.wire import KINDS
from tests.cli.conftest import QUICK, Cli


def test_config_prints_what_can_be_run(cli: Cli) -> None:
    printed = cli("config", "demo", "-s", "method.tau=7").stdout
    assert parse(tomllib.loads(printed)) == load("demo", ["method.tau=7"])


def test_the_demo_is_the_default(cli: Cli) -> None:
    assert cli("config").stdout == cli("config", "demo").stdout


def test_presets_are_listed(cli: Cli) -> None:
    lines = cli("presets").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(presets())


def test_audit_shows_sizes_skew_labels_and_hash(cli: Cli) -> None:
    told = cli("audit", "small").stdout
    for word in ("clients", "label skew", "hash", "examples of each class", "1,438"):
        assert word in told
    assert not Path("runs").exists()


def test_audit_says_what_its_table_leaves_out(cli: Cli) -> None:
    told = cli("audit", "small", "-s", "partition.scheme=iid", "-s", "partition.clients=30").stdout
    assert "10 more clients" in told


def test_cost_is_what_the_run_measures_but_for_envelopes(cli: Cli) -> None:
    told = cli("cost", "small", *QUICK).stdout
    cli("run", "small", *QUICK, "--quiet")
    summary = json.loads(Path("runs/small/summary.json").read_text())
    for kind in KINDS:
        for way in ("down", "up"):
            if kind != "envelope" and summary["bytes"][way][kind]:
                assert f"{summary['bytes'][way][kind] / 1e6:,.3f}" in told
    assert "FedAvg" in told


def test_cost_writes_nothing(cli: Cli) -> None:
    cli("cost", "small")
    assert not Path("runs").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_report_writes_the_page_again(cli: Cli, finished: bool) -> None:
    cli("run", "small", *QUICK, "--quiet")
    page = Path("runs/small/report.html")
    page.unlink()
    if not finished:
        Path("runs/small/summary.json").unlink()
    assert str(page) in cli("report", "runs/small").stdout
    assert ("This run is not finished" in page.read_text()) != finished
