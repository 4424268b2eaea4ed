"""``fedloru rank`` on configurations and run folders, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from fedloru.analysis.curvature import KINDS
from fedloru.analysis.study import Record, study
from tests.cli.conftest import QUICK, Cli

FEW = ("--sizes", "20", "--clients", "1", "--top", "2", "--steps", "3", "--tolerance", "1")


def figures(path: str) -> dict[str, Any]:
    """Return what was written, timings and the place looked at apart."""
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
    assert "kinks (relu)" in shown.stderr and "Spectra to find: 2. This takes about" in shown.stderr
    cli("rank", "small", *QUICK, "--rounds", "4", *FEW, "--out", "config.json", "--quiet")
    assert figures("run.json") == figures("config.json")
    cli("rank", "run", *FEW, "--out", "last.json", "--quiet")
    assert [figures(f"{name}.json")["of"]["round"] for name in ("run", "last")] == [4, 6]
    assert figures("last.json")["records"] != figures("run.json")["records"]
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_figures_of_a_run_go_onto_its_page(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    shown = cli("rank", "run", *FEW).stdout
    assert "Written: run/studies/ranks-6.json" in shown and "Written: run/report.html" in shown
    assert "Stable rank of the Hessian after round 6" in Path("run/report.html").read_text()


def test_a_run_that_goes_on_has_no_page_yet(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    for name in ("report.html", "summary.json"):
        Path("run", name).unlink()
    shown = cli("rank", "run", *FEW).stdout
    assert "Written: run/studies/ranks-6.json" in shown and not Path("run/report.html").exists()
    cli("report", "run")
    assert "Stable rank of the Hessian after round 6" in Path("run/report.html").read_text()


def test_at_the_start_there_is_nothing_to_train(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    cli("rank", "run", "--round", "0", *FEW, "--out", "run.json", "--quiet")
    cli("rank", "small", *QUICK, *FEW, "--out", "config.json", "--quiet")
    assert figures("run.json") == figures("config.json")


def test_pictures_are_drawn_of_each_curvature(cli: Cli) -> None:
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
    ("args", "told"),
    [
        (("nowhere",), "there is no such file and no such preset"),
        (("nowhere",), "Nor is there a run folder of that name."),
        (("small", "--sizes", "50,x"), "--sizes has 'x', expected numbers of examples and all"),
        (("small", "--sizes", "2000"), "a subset of 2,000 was asked for, expected 1 to 1,438"),
        (("small", "--clients", "11"), "11 clients were asked for, and there are 10"),
        (("small", "--curvature", "fisher"), "--curvature is 'fisher', expected hessian, ggn or both"),
        (("small", "--top", "500", "-s", "model.hidden=[4]"), "500 eigenvalues were asked for, but there are 310"),
        (("small", "--rounds", "21"), "--rounds is 21, but the configuration trains for 20"),
        (("small", "--round", "2"), "--round is given, but small is a configuration"),
        (("small", "--out", "no/where.json"), "is in a folder that does not exist"),
        (("small", "--pictures", __file__), "is a file: name a folder to write to"),
        (("small", "-s", "model.name=cnn", "-s", "model.norm=batch"), "statistics are untrained"),
    ],
)
def test_bad_input(cli: Cli, args: tuple[str, ...], told: str) -> None:
    result = cli("rank", *args, code=2)
    assert told in result.stderr and result.stdout == ""
    assert "Spectra to find" not in result.stderr, "it is refused before time is spent"


def test_what_a_run_folder_cannot_do_is_told(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    for args, told in (
        (("run", "--rounds", "2"), "--rounds is given, but run is a run folder"),
        (("run", "-s", "seed=1"), "-s is given, but run is a run folder"),
        (("run", "--round", "3"), "run keeps no checkpoint of round 3: take one of 0, 4, 6"),
        ((".",), "is not a run folder"),
    ):
        assert told in cli("rank", *args, code=2).stderr
    settings = Path("run/config.toml")
    settings.write_text(settings.read_text().replace("lr = 0.1", "lr = 0.2"))
    assert "client.lr was 0.1, is 0.2" in cli("rank", "run", code=2).stderr


def test_a_run_without_a_whole_checkpoint_is_told(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    last = max(Path("run/checkpoint").glob("*.safetensors"))
    last.write_bytes(b"\0" * last.stat().st_size)
    assert "the checkpoint of round 6 in run is damaged" in cli("rank", "run", code=2).stderr
    for path in Path("run/checkpoint").glob("round-*"):
        path.unlink()
    assert "run has no checkpoint yet" in cli("rank", "run", code=2).stderr


def test_what_was_found_before_ctrl_c_is_kept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: Any) -> Iterator[Record]:
        yield from islice(study(*args), 1)
        raise KeyboardInterrupt

    monkeypatch.setattr("fedloru.analysis.study.study", stopped)
    assert "ranks.json holds 1 of 2 spectra" in cli("rank", "small", *FEW, "--out", "ranks.json", code=130).stderr
    assert len(figures("ranks.json")["records"]) == 1


def test_a_missing_library_is_a_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    monkeypatch.delitem(sys.modules, "fedloru.analysis.curvature")
    told = cli("rank", "small", code=2).stderr
    assert "needs curvlinops: install it with `pip install 'fedloru[analysis]'`" in told
