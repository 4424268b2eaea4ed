"""``fedloru rank`` on configurations and run folders, and its errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedloru import api
from fedloru.analysis.curvature import KINDS
from fedloru.analysis.study import Record, study
from fedloru.data import Partition
from tests.cli.conftest import QUICK, Cli

FEW = ("--sizes", "20", "--clients", "1", "--top", "2", "--steps", "3", "--tolerance", "1")


def figures(path: str) -> dict[str, Any]:
    """Return the written results without timings and without the source."""
    written = json.loads(Path(path).read_text())
    for record in written["records"]:
        assert record.pop("seconds") > 0
    del written["of"]["source"]
    return dict(written)


def test_a_run_folder_and_its_configuration_agree(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    shown = cli("rank", "run", "--round", "4", *FEW, "--out", "run.json")
    assert "subset" in shown.stdout and "client" in shown.stdout and "Written: run.json" in shown.stdout
    assert "piecewise smooth (relu)" in shown.stderr
    assert "Spectra to compute: 2. Estimated time: " in shown.stderr
    cli("rank", "small", *QUICK, "--rounds", "4", *FEW, "--out", "config.json", "--quiet")
    assert figures("run.json") == figures("config.json")
    cli("rank", "run", *FEW, "--out", "last.json", "--quiet")
    assert [figures(f"{name}.json")["of"]["round"] for name in ("run", "last")] == [4, 6]
    assert figures("last.json")["records"] != figures("run.json")["records"]
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_results_for_a_run_are_added_to_its_page(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    shown = cli("rank", "run", *FEW).stdout
    assert "Written: run/studies/ranks-6.json" in shown and "Written: run/report.html" in shown
    assert "Stable rank of the Hessian after round 6" in Path("run/report.html").read_text()


def test_an_unfinished_run_has_no_page_yet(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    for name in ("report.html", "summary.json"):
        Path("run", name).unlink()
    shown = cli("rank", "run", *FEW).stdout
    assert "Written: run/studies/ranks-6.json" in shown and not Path("run/report.html").exists()
    cli("report", "run")
    assert "Stable rank of the Hessian after round 6" in Path("run/report.html").read_text()


def test_round_0_equals_the_untrained_configuration(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    cli("rank", "run", "--round", "0", *FEW, "--out", "run.json", "--quiet")
    cli("rank", "small", *QUICK, *FEW, "--out", "config.json", "--quiet")
    assert figures("run.json") == figures("config.json")


def test_figures_are_saved_for_each_curvature(cli: Cli) -> None:
    shown = cli("rank", "small", "-s", "model.hidden=[4]", *FEW, "--curvature", "both", "--pictures", "new/pictures")
    names = {
        f"{name}-{kind}{end}" for name in ("stable-rank", "spectrum") for kind in KINDS for end in (".pdf", ".png")
    }
    assert {path.name for path in Path("new/pictures").iterdir()} == names
    assert all(f"Written: {Path('new/pictures') / name}" in shown.stdout for name in names)


def test_server_and_clients_are_compared(cli: Cli) -> None:
    size = ("-s", "model.hidden=[4]", "--batch", "2000", *FEW[2:])
    shown = cli("rank", "small", *size, "--curvature", "both", "--layers", "--double").stdout
    for kind in ("hessian", "ggn"):
        assert shown.count(f"Stable rank of the {kind}: higher than the server's for") == 1
    for row in ("server ", "client ", " all ", " fc1 ", " fc2 "):
        assert shown.count(row) == (6 if row[0] != " " else 4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "there is no such file and no such preset"),
        (("nowhere",), "There is no run folder of that name either."),
        (("small", "--sizes", "50,x"), "--sizes contains 'x', expected numbers of examples or 'all'"),
        (("small", "--sizes", "2000"), "got a subset of 2,000 examples, expected 1 to 1,438"),
        (("small", "--clients", "11"), "11 clients requested, but the configuration has 10"),
        (("small", "--curvature", "fisher"), "--curvature is 'fisher', expected hessian, ggn or both"),
        (("small", "--top", "500", "-s", "model.hidden=[4]"), "500 eigenvalues requested, but the matrix has 310"),
        (("small", "--rounds", "21"), "--rounds is 21, but the configuration trains for 20 rounds"),
        (("small", "--round", "2"), "--round applies only to a run folder, but small is a configuration"),
        (("small", "--out", "no/where.json"), "is in a folder that does not exist"),
        (("small", "--pictures", __file__), "is a file: name a folder to write to"),
        (("small", "-s", "model.name=cnn", "-s", "model.norm=batch"), "untrained statistics"),
    ],
)
def test_bad_input(cli: Cli, args: tuple[str, ...], message: str) -> None:
    result = cli("rank", *args, code=2)
    assert message in result.stderr and result.stdout == ""
    assert "Spectra to compute" not in result.stderr, "errors are raised before any computation"


def test_errors_for_a_run_folder(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    for args, message in (
        (("run", "--rounds", "2"), "--rounds applies only to a configuration, but run is a run folder"),
        (("run", "-s", "seed=1"), "-s applies only to a configuration, but run is a run folder"),
        (("run", "--round", "3"), "run has no checkpoint of round 3: choose one of 0, 4, 6"),
        ((".",), "is not a run folder"),
    ):
        assert message in cli("rank", *args, code=2).stderr
    settings = Path("run/config.toml")
    settings.write_text(settings.read_text().replace("lr = 0.1", "lr = 0.2"))
    assert "client.lr was 0.1, is 0.2" in cli("rank", "run", code=2).stderr


@pytest.mark.parametrize("command", ["rank", "align"])
def test_a_run_with_real_clients_is_refused(command: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SimpleNamespace(partition=Partition("federation", 0, (torch.arange(0),) * 3, (), {}))
    monkeypatch.setattr(api, "load_state", lambda source, round: (real, None))
    Path("run").mkdir()
    message = cli(command, "run", code=2).stderr
    assert "the run in run has real clients, whose training data is not on this machine" in message


def test_a_run_without_an_intact_checkpoint_is_an_error(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    last = max(Path("run/checkpoint").glob("*.safetensors"))
    last.write_bytes(b"\0" * last.stat().st_size)
    assert "the checkpoint of round 6 in run is damaged" in cli("rank", "run", code=2).stderr
    for path in Path("run/checkpoint").glob("round-*"):
        path.unlink()
    assert "run has no checkpoint yet" in cli("rank", "run", code=2).stderr


def test_results_before_ctrl_c_are_kept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> Iterator[Record]:
        yield from islice(study(*args), 1)
        raise KeyboardInterrupt

    monkeypatch.setattr("fedloru.analysis.study.study", interrupted)
    assert "ranks.json contains 1 of 2 spectra" in cli("rank", "small", *FEW, "--out", "ranks.json", code=130).stderr
    assert len(figures("ranks.json")["records"]) == 1


def test_a_missing_library_is_reported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    monkeypatch.delitem(sys.modules, "fedloru.analysis.curvature")
    message = cli("rank", "small", code=2).stderr
    assert "requires curvlinops: install it with `pip install 'fedloru[analysis]'`" in message
