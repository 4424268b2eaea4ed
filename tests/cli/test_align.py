"""``fedloru align`` on configurations and run folders, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import QUICK, Cli

FEW = ("--clients", "3", "--ranks", "4,1", "--top", "2", "--batch", "2000")


def figures(path: str) -> dict[str, Any]:
    """Return the written results without the source."""
    written = json.loads(Path(path).read_text())
    del written["of"]["source"]
    return dict(written)


def test_a_run_folder_and_its_configuration_agree(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    shown = cli("align", "run", "--round", "4", *FEW, "--layers")
    assert shown.stdout.count(" fc1.weight ") == shown.stdout.count(" fc2.weight ") == 3
    assert "Ranks at which truncated gradients agree better than full ones" in shown.stdout
    assert "The top 2 eigenvectors of the server's Hessian (4,810 dimensions) span" in shown.stdout
    assert "piecewise smooth (relu)" in shown.stderr
    assert "Gradients to compute: 3. Estimated time: " in shown.stderr
    cli("align", "small", *QUICK, "--rounds", "4", *FEW, "--out", "config.json", "--quiet")
    found = figures("config.json")
    assert found == figures("run/studies/alignment-4.json")
    assert [row["rank"] for row in found["agreement"]["all"]] == [1, 4, None]
    assert len(found["eigenspace"]["shares"]) == len(found["clients"]) == 3


def test_results_for_a_run_are_added_to_its_page(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    for round in ("0", "6"):
        shown = cli("align", "run", "--round", round, *FEW[:-4], "--top", "0").stdout
        assert f"Written: run/studies/alignment-{round}.json" in shown and "Written: run/report.html" in shown
        assert "eigenvectors" not in shown
    text = Path("run/report.html").read_text()
    assert all(f"Gradients truncated to low rank after round {round}<" in text for round in (0, 6))
    assert cli("resume", "run").stderr.startswith("The run in run is finished")


def test_figures_are_saved_for_all_weights_and_for_each(cli: Cli) -> None:
    size = ("-s", "model.hidden=[4]", *FEW[:-4], "--top", "0")
    cli("align", "small", *size, "--pictures", "all", "--quiet")
    cli("align", "small", *size, "--pictures", "each", "--layers", "--quiet")
    drawn = [sorted(path.name for path in Path(folder).glob("*.png")) for folder in ("all", "each")]
    assert drawn == [
        ["alignment-all.png"],
        ["alignment-all.png", "alignment-fc1.weight.png", "alignment-fc2.weight.png"],
    ]
    assert not Path("studies").exists(), "a configuration has no folder to write to"


def test_clients_with_fewer_examples_than_classes_are_counted(cli: Cli) -> None:
    few = ("-s", "partition.clients=200", "-s", "partition.scheme=iid", "--top", "0")
    shown = cli("align", "small", *few, "--clients", "2").stdout
    assert "Clients with fewer examples than classes: 2 of 2." in shown
    assert "Ranks at which" not in shown, "two clients give no standard error"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "there is no such file and no such preset"),
        (("nowhere",), "There is no run folder of that name either."),
        (("small", "--ranks", "1,x"), "--ranks contains 'x', expected positive integers"),
        (("small", "--ranks", "0"), "--ranks contains '0', expected positive integers"),
        (("small", "--clients", "11"), "11 clients requested, but the configuration has 10"),
        (("small", "--clients", "1"), "is not in the range x>=2"),
        (("small", "-s", "partition.clients=1", "-s", "cohort.size=1"), "agreement needs two or more clients"),
        (("small", "--top", "310", "-s", "model.hidden=[4]"), "310 eigenvectors requested"),
        (("small", "--round", "2"), "--round applies only to a run folder, but small is a configuration"),
        (("small", "--out", "no/where.json"), "is in a folder that does not exist"),
        (("small", "--pictures", __file__), "is a file: name a folder to write to"),
        (("small", "-s", "model.name=cnn", "-s", "model.norm=batch"), "untrained statistics"),
    ],
)
def test_bad_input(cli: Cli, args: tuple[str, ...], message: str) -> None:
    result = cli("align", *args, code=2)
    assert message in result.stderr and result.stdout == ""
    assert "Gradients to compute" not in result.stderr, "errors are raised before any computation"


def test_results_before_ctrl_c_are_kept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedloru.analysis.gradients.eigenspace", interrupted)
    message = cli("align", "small", *FEW, "--out", "found.json", code=130).stderr
    assert "found.json contains the agreement, but not the eigenvectors." in message
    assert figures("found.json").keys() == {"of", "clients", "agreement"}
