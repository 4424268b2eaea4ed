"""The commands that do not train."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedloru.config import load, parse, presets
from fedloru.wire import KINDS
from tests.cli.conftest import QUICK, Cli


def test_config_prints_a_configuration_that_can_be_run(cli: Cli) -> None:
    printed = cli("config", "demo", "-s", "method.tau=7").stdout
    assert parse(tomllib.loads(printed)) == load("demo", ["method.tau=7"])


def test_the_demo_is_the_default(cli: Cli) -> None:
    assert cli("config").stdout == cli("config", "demo").stdout


def test_presets_are_listed(cli: Cli) -> None:
    lines = cli("presets").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(presets())


def test_audit_shows_sizes_skew_labels_and_hash(cli: Cli) -> None:
    output = cli("audit", "small").stdout
    for word in ("clients", "label skew", "hash", "examples by class", "1,438"):
        assert word in output
    assert not Path("runs").exists()


def test_audit_reports_what_its_table_omits(cli: Cli) -> None:
    output = cli("audit", "small", "-s", "partition.scheme=iid", "-s", "partition.clients=30").stdout
    assert "10 more clients" in output


def test_an_audit_of_targets_has_a_row_per_client(cli: Cli) -> None:
    rows = [f"{n},{site},{n / 2 + 0.25}" for n, site in enumerate(["kiel"] * 12 + ["ulm"] * 8)]
    Path("t.csv").write_text("\n".join(["age,site,price", *rows]))
    flags = ("data.source=csv", "data.path=t.csv", "data.label=price", "partition.scheme=natural", "partition.key=site")
    output = cli("audit", *(word for flag in (*flags, "cohort.size=2") for word in ("-s", flag))).stdout
    counts = dict(re.findall(r"^ *(kiel|ulm) +(\d+) *$", output, re.MULTILINE))
    assert set(counts) == {"kiel", "ulm"} and sum(map(int, counts.values())) == 16


def test_cost_is_what_the_run_measures_without_envelopes(cli: Cli) -> None:
    output = cli("cost", "small", *QUICK).stdout
    cli("run", "small", *QUICK, "--quiet")
    summary = json.loads(Path("runs/small/summary.json").read_text())
    for kind in KINDS:
        for way in ("down", "up"):
            if kind != "envelope" and summary["bytes"][way][kind]:
                assert f"{summary['bytes'][way][kind] / 1e6:,.3f}" in output
    assert "FedAvg" in output


def test_cost_by_profile_is_what_the_run_measures(cli: Cli) -> None:
    """Each row has the measured bytes of a profile without envelopes; the last row is the sum of the others."""
    ranked = (*QUICK, "-s", "method.name=mfedloru", "-s", "lowrank.capacities={1=0.3,2=0.3}")
    output = cli("cost", "small", *ranked).stdout.split("by profile")[1].splitlines()
    cli("run", "small", *ranked, "--quiet")
    summary = json.loads(Path("runs/small/summary.json").read_text())
    assert list(summary["profiles"]) == ["usual", "rank 1", "rank 2"]
    spent = {name: [*map(without_envelope, (one["down"], one["up"]))] for name, one in summary["profiles"].items()}
    spent["all"] = [sum(counts) for counts in zip(*spent.values(), strict=True)]
    for name, (down, up) in spent.items():
        (line,) = [line.split() for line in output if line.strip().startswith(f"{name} ")]
        assert line[-3:] == [f"{count / 1e6:,.3f}" for count in (down, up, down + up)]
    rounds = [one["client_rounds"] for one in summary["profiles"].values()]
    assert sum(rounds) == 6 * 5 and [one["clients"] for one in summary["profiles"].values()] == [4, 3, 3]


def without_envelope(kinds: dict[str, int]) -> int:
    return sum(kinds.values()) - kinds["envelope"]


def test_cost_of_equal_clients_has_no_profiles(cli: Cli) -> None:
    assert "by profile" not in cli("cost", "small").stdout


@pytest.mark.parametrize(("cohort", "owed"), [(5, "1 increment"), (1, "3 increments")])
def test_cost_says_how_many_increments_a_client_catches_up_with(cli: Cli, cohort: int, owed: str) -> None:
    """One that takes part less than once in the run catches up with all of them at most."""
    shown = cli("cost", "small", "-s", f"cohort.size={cohort}", "-s", "rounds=6").stdout
    assert f"catches up with {owed} each time" in " ".join(shown.split())


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


def test_modules_of_the_working_directory_do_not_shadow_libraries(cli: Cli, tmp_path: Path) -> None:
    """As for the installed script, ``sys.path`` begins with the folder of the script."""
    Path("plotly.py").write_text("raise SystemExit('plotly.py of the working directory was imported')\n")
    Path("my_model.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    script = tmp_path / "bin" / "fedloru"
    script.parent.mkdir()
    script.write_text("from fedloru.cli import main\nmain()\n")
    changes = ("model.name=python:my_model:build", "lowrank.targets=['1']", "rounds=1", "method.tau=1")
    for args in (
        ("run", "small", "--quiet", *(argument for change in changes for argument in ("-s", change))),
        ("report", "runs/small"),
    ):
        done = subprocess.run([sys.executable, script, *args], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert Path("runs/small/report.html").is_file()
