"""``fedloru align`` on configurations and run folders, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import QUICK, Cli

FEW = ("--clients", "3", "--ranks", "4,1", "--top", "2", "--batch", "2000")


def figures(path: str) -> dict[str, Any]:
    """Return what was written, the place looked at apart."""
    written = json.loads(Path(path).read_text())
    del written["of"]["source"]
    return dict(written)


def test_a_run_folder_and_its_configuration_agree(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    shown = cli("align", "run", "--round", "4", *FEW, "--layers")
    assert shown.stdout.count(" fc1.weight ") == shown.stdout.count(" fc2.weight ") == 3
    assert "Ranks at which gradients agree better than whole ones" in shown.stdout
    assert "The 2 top eigenvectors of the server's Hessian, of 4,810 dimensions, hold" in shown.stdout
    assert "kinks (relu)" in shown.stderr and "Gradients to take: 3. This takes about" in shown.stderr
    cli("align", "small", *QUICK, "--rounds", "4", *FEW, "--out", "config.json", "--quiet")
    found = figures("config.json")
    assert found == figures("run/studies/alignment-4.json")
    assert [row["rank"] for row in found["agreement"]["all"]] == [1, 4, None]
    assert len(found["eigenspace"]["shares"]) == len(found["clients"]) == 3


def test_figures_of_a_run_go_onto_its_page(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    for round in ("0", "6"):
        shown = cli("align", "run", "--round", round, *FEW[:-4], "--top", "0").stdout
        assert f"Written: run/studies/alignment-{round}.json" in shown and "Written: run/report.html" in shown
        assert "eigenvectors" not in shown
    text = Path("run/report.html").read_text()
    assert all(f"Gradients cut to low rank after round {round}<" in text for round in (0, 6))
    assert cli("resume", "run").stderr.startswith("The run in run is finished")


def test_pictures_are_drawn_of_all_weights_and_of_each(cli: Cli) -> None:
    size = ("-s", "model.hidden=[4]", *FEW[:-4], "--top", "0")
    cli("align", "small", *size, "--pictures", "all", "--quiet")
    cli("align", "small", *size, "--pictures", "each", "--layers", "--quiet")
    drawn = [sorted(path.name for path in Path(folder).glob("*.png")) for folder in ("all", "each")]
    assert drawn == [
        ["alignment-all.png"],
        ["alignment-all.png", "alignment-fc1.weight.png", "alignment-fc2.weight.png"],
    ]
    assert not Path("studies").exists(), "a configuration has no folder to write to"


def test_clients_with_fewer_examples_than_classes_are_told(cli: Cli) -> None:
    few = ("-s", "partition.clients=200", "-s", "partition.scheme=iid", "--top", "0")
    shown = cli("align", "small", *few, "--clients", "2").stdout
    assert "Clients with fewer examples than classes: 2 of 2." in shown
    assert "Ranks at which" not in shown, "two clients give no error to hold a gain against"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("nowhere",), "there is no such file and no such preset"),
        (("nowhere",), "Nor is there a run folder of that name."),
        (("small", "--ranks", "1,x"), "--ranks has 'x', expected ranks from 1"),
        (("small", "--ranks", "0"), "--ranks has '0', expected ranks from 1"),
        (("small", "--clients", "11"), "11 clients were asked for, and there are 10"),
        (("small", "--clients", "1"), "should be greater than or equal to 2"),
        (("small", "-s", "partition.clients=1", "-s", "cohort.size=1"), "agreement is between clients, and there is 1"),
        (("small", "--top", "310", "-s", "model.hidden=[4]"), "310 eigenvectors were asked for"),
        (("small", "--round", "2"), "--round is given, but small is a configuration"),
        (("small", "--out", "no/where.json"), "is in a folder that does not exist"),
        (("small", "--pictures", __file__), "is a file: name a folder to write to"),
        (("small", "-s", "model.name=cnn", "-s", "model.norm=batch"), "statistics are untrained"),
    ],
)
def test_bad_input(cli: Cli, args: tuple[str, ...], told: str) -> None:
    result = cli("align", *args, code=2)
    assert told in result.stderr and result.stdout == ""
    assert "Gradients to take" not in result.stderr, "it is refused before time is spent"


def test_what_was_found_before_ctrl_c_is_kept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedloru.analysis.gradients.eigenspace", stopped)
    told = cli("align", "small", *FEW, "--out", "found.json", code=130).stderr
    assert "found.json holds the agreement, without the eigenvectors." in told
    assert figures("found.json").keys() == {"of", "clients", "agreement"}
