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


def test_cost_tells_profiles_apart_as_the_run_does(cli: Cli) -> None:
    """Each row is the run's measured profile without envelopes, and the last row is the sum of the others."""
    ranked = (*QUICK, "-s", "method.name=mfedloru", "-s", "lowrank.capacities={1=0.3,2=0.3}")
    told = cli("cost", "small", *ranked).stdout.split("by profile")[1].splitlines()
    cli("run", "small", *ranked, "--quiet")
    summary = json.loads(Path("runs/small/summary.json").read_text())
    assert list(summary["profiles"]) == ["usual", "rank 1", "rank 2"]
    spent = {name: [*map(without_envelope, (one["down"], one["up"]))] for name, one in summary["profiles"].items()}
    spent["all"] = [sum(counts) for counts in zip(*spent.values(), strict=True)]
    for name, (down, up) in spent.items():
        (line,) = [line.split() for line in told if line.strip().startswith(f"{name} ")]
        assert line[-3:] == [f"{count / 1e6:,.3f}" for count in (down, up, down + up)]
    rounds = [one["client_rounds"] for one in summary["profiles"].values()]
    assert sum(rounds) == 6 * 5 and [one["clients"] for one in summary["profiles"].values()] == [4, 3, 3]


def without_envelope(kinds: dict[str, int]) -> int:
    return sum(kinds.values()) - kinds["envelope"]


def test_cost_of_clients_that_are_alike_has_no_profiles(cli: Cli) -> None:
    assert "by profile" not in cli("cost", "small").stdout


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
