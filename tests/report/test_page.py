import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedloru.errors import RunFolderError
from fedloru.report import Records, page, plotly_script, read, write

from .made_up import write_run

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Parsed(HTMLParser):
    """The text, ids, links and scripts of a page; mismatched tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        tag = self.open[-1] if self.open else ""
        if tag == "script":
            self.scripts[-1] += data
        elif tag != "style":
            self.texts.append(data)


def test_the_page_is_complete_and_needs_no_network(records: Records) -> None:
    text = page(records)
    parsed = Parsed(text)
    assert text.startswith("<!DOCTYPE html>")
    assert parsed.links == []
    assert len(parsed.ids) == len(set(parsed.ids)) == 11
    assert sum(len(script) > 1_000_000 for script in parsed.scripts) == 1
    rest = text.replace(max(parsed.scripts, key=len), "")
    assert not re.search(r'(src|href)="?http|//cdn|@import|url\(', rest)


def test_headline_numbers(records: Records) -> None:
    text = Parsed(page(records)).text
    for expected in (
        f"Final accuracy {100 * records.summary['final_accuracy']:.1f} %",
        f"Mean accuracy {100 * records.summary['last5_accuracy']:.1f} %",
        "Uploaded 14.9 MB",
        "Downloaded 23.1 MB",
        "Share of FedAvg's bytes 6.3 % 15.8× fewer (by formula)",
        "Merges 5",
        f"Personal model {100 * records.rounds[-1]['personal']['personal']['mean']:.1f} % mean of 20 clients",
        f"Shared model, worst 10 % {100 * records.rounds[-1]['personal']['shared']['bottom_decile']:.1f} %",
        "Peak memory 612 MB",
        "FedAvg, up + down (by formula) 600 MB",
        "factors 12.000 12.000 24.000",
        "training examples 4,841",
        "torch 2.9.1",
        "trained parameters 7,300 of 152,000 (4.8 %)",
    ):
        assert expected in text
    assert "not finished" not in text and "not measured" not in text


def test_bytes_by_formula_are_marked(records: Records) -> None:
    text = Parsed(page(records._replace(summary=records.summary | {"bytes_measured": False}))).text
    assert "computed from the method's formula, not measured" in text


PROFILES = {
    "usual": {"clients": 12, "client_rounds": 40, "down": {"factors": 2_000_000, "dense": 400_000}, "up": {"dense": 1}},
    "rank 2": {"clients": 8, "client_rounds": 10, "down": {"factors": 300_000}, "up": {"factors": 150_000}},
    "rank 1": {"clients": 1, "client_rounds": 0, "down": {"factors": 0}, "up": {"factors": 0}},
}


def test_bytes_by_profile(records: Records) -> None:
    text = Parsed(page(records._replace(summary=records.summary | {"profiles": PROFILES}))).text
    for expected in (
        "profile clients client rounds kB down kB up MB down MB up MB total",
        "usual 12 40 60.0 0.0 2.400 0.000 2.400",
        "rank 2 8 10 30.0 15.0 0.300 0.150 0.450",
        "rank 1 1 0 – – 0.000 0.000 0.000",
        "all 21 50 54.0 3.0 2.700 0.150 2.850",
    ):
        assert expected in text


def test_profiles_of_an_unfinished_run_have_no_number_of_clients(records: Records) -> None:
    profiles = {"rank 2": {"clients": 2, "down": {"factors": 8_000}, "up": {"dense": 6_000}}}
    rows = [row | {"profiles": profiles} for row in records.rounds[:3]]
    text = Parsed(page(records._replace(rounds=rows, summary={}))).text
    assert "rank 2 – 6 4.0 3.0 0.024 0.018 0.042 all – 6" in text


def test_identical_clients_have_no_profiles(records: Records) -> None:
    assert "profile" not in Parsed(page(records)).text


def test_the_page_of_an_unfinished_run(tmp_path: Path) -> None:
    text = Parsed(page(read(write_run(tmp_path / "run", rounds=12, planned=40)))).text
    assert "12 of 40 rounds" in text and "Accuracy so far" in text and "Compared with FedAvg" not in text


def test_the_page_of_an_empty_run(tmp_path: Path) -> None:
    parsed = Parsed(page(read(write_run(tmp_path / "run", rounds=0))))
    assert "No rounds have been recorded yet" in parsed.text
    assert parsed.ids == ["examples-per-client"]


def test_a_run_without_evaluations_has_no_empty_axes(records: Records) -> None:
    nothing = {"test_accuracy": None, "test_loss": None, "diagnostics": {}, "sites": {}, "personal": None}
    rows = [row | nothing for row in records.rounds]
    parsed = Parsed(page(records._replace(rounds=rows, partition={}, summary={})))
    assert parsed.ids == ["loss-over-rounds", "bytes-over-rounds"]


def test_older_runs_without_personal_scores_and_ranks_have_a_page(records: Records) -> None:
    later = {"sites", "personal", "diagnostics"}
    rows = [{key: value for key, value in row.items() if key not in later} for row in records.rounds]
    parsed = Parsed(page(records._replace(rounds=rows)))
    assert not {"accuracy-on-local-test-sets", "effective-ranks", "stable-ranks", "aggregation-gap"} & set(parsed.ids)
    assert "accuracy-over-rounds" in parsed.ids and "worst 10 %" not in parsed.text


def test_text_from_files_is_escaped(records: Records) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    config = records.config | {"data": {"source": evil}, "method": {"name": evil}}
    partition = records.partition | {"classes": [evil] * 10, "scheme": evil, "settings": {evil: evil}}
    summary = records.summary | {"method": evil, "engine": evil, "engine_reason": evil, "versions": {evil: evil}}
    rounds = [
        row
        | {"bytes": {"up": {evil: 1}, "down": {evil: 2}}, "diagnostics": {evil: 1.0}}
        | {"sites": {evil: {"effective_rank_total": 1.0}}}
        for row in records.rounds
    ]
    text = page(Records(Path("/runs") / "<b>name", config, partition, rounds, summary))
    assert "<script>alert" not in text and "<img" not in text.replace(max(Parsed(text).scripts, key=len), "")
    assert "<b>name" not in text and "&lt;b&gt;name" in text


def test_write_saves_the_page_in_the_run_folder(run: Path) -> None:
    path = write(run, self_contained=True)
    assert path == run / "report.html"
    assert path.read_text(encoding="utf-8") == page(read(run))


def test_the_pages_of_runs_in_a_folder_share_one_script(tmp_path: Path) -> None:
    paths = [write(write_run(tmp_path / name)) for name in ("a", "b & c")]
    (script,) = tmp_path.glob("*.js")
    written = script.stat().st_mtime_ns
    assert script.stat().st_size > 1_000_000 and all(path.stat().st_size < 400_000 for path in paths)
    for path in paths:
        (link,) = Parsed(path.read_text("utf-8")).links
        assert (path.parent / link).resolve() == script
    assert "fedloru report --self-contained b &amp; c" in paths[1].read_text("utf-8")
    write(tmp_path / "a")
    assert script.stat().st_mtime_ns == written
    script.write_text("damaged")
    write(tmp_path / "a")
    assert script.stat().st_size > 1_000_000


def test_a_page_embeds_the_script_if_it_cannot_be_shared(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(plotly_script, "write_atomic", refuse)
    path = write(run)
    assert Parsed(path.read_text("utf-8")).links == [] and not list(run.parent.glob("*.js"))


def test_no_script_is_left_in_the_working_directory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    for folder in (run, run.name):
        assert Parsed(write(folder).read_text("utf-8")).links == [] and not list(run.parent.glob("*.js"))
    monkeypatch.chdir(run.parent.parent)
    write(run)
    assert len(list(run.parent.glob("plotly-*.min.js"))) == 1
    monkeypatch.chdir(run.parent)
    assert "data-missing" in write(run).read_text("utf-8")  # a script that is there already is shared


def test_write_rejects_other_folders(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_plotting_libraries_are_imported_lazily() -> None:
    check = "import sys, fedloru, fedloru.report; sys.exit(bool({'plotly', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
