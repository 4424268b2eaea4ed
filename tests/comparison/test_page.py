import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from fedloru.comparison import figures
from fedloru.comparison.groups import Group, grouped
from fedloru.comparison.measures import reached
from fedloru.comparison.page import page, terminal_tables
from fedloru.comparison.results import table
from fedloru.report import Records, read, write
from tests.report.made_up import write_run
from tests.report.test_page import Parsed

from .made_up import results, variant


def printed(groups: list[Group], width: int, target: float | None = None) -> str:
    console = Console(file=io.StringIO(), width=width)
    for each in terminal_tables(results(groups, target), width):
        console.print(each)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_means_and_standard_deviations(groups: list[Group], records: Records) -> None:
    head, (first, second), caption = table(results(groups, 0.9))
    cells = dict(zip(head, first, strict=True))
    final = 100 * records.summary["final_accuracy"]
    assert (cells[""], cells["seeds"]) == ("FedLoRU", "0, 1, 2") and "standard deviation" in caption
    assert cells["final accuracy, %"] == f"{final + 2:.1f} ± 2.0"
    assert cells["MB up"] == "14.9" and cells["MB down"] == "23.1"
    assert cells["personal, local tests, %"].endswith("± 0.0")
    single = dict(zip(head, second, strict=True))
    assert single["final accuracy, %"] == f"{final - 10:.1f}" and single["rounds to 90 %"] == "not reached"


def test_the_cost_of_a_target_is_the_mean_over_the_seeds_that_reached_it(groups: list[Group], records: Records) -> None:
    runs = groups[0].runs
    best = [max(row["test_accuracy"] or 0 for row in run.rounds) for run in runs]
    target = (best[0] + best[1]) / 2
    made = results(groups, target)
    head, (first, _), _ = table(made)
    rounds = [reached(run, made.metric, target) for run in runs]
    assert rounds[0] is None and rounds[1] is not None and rounds[2] is not None
    reported = next(cell for name, cell in zip(head, first, strict=True) if name.startswith("rounds to"))
    assert reported == f"{(rounds[1] + rounds[2]) / 2:.1f} (2 of 3)"
    mb = next(cell for name, cell in zip(head, first, strict=True) if name.startswith("MB to"))
    sent = [row["up_bytes_total"] + row["down_bytes_total"] for row in records.rounds]
    assert mb == f"{(sent[rounds[1] - 1] + sent[rounds[2] - 1]) / 2e6:.1f} (2 of 3)"


def test_curves_are_means_with_min_max_bands(groups: list[Group], records: Records) -> None:
    band, mean, single = figures.over_rounds(results(groups)).data
    tested = [row for row in records.rounds if row["test_accuracy"] is not None]
    assert list(mean.x) == [row["round"] for row in tested] == list(single.x)
    assert list(mean.y) == pytest.approx([row["test_accuracy"] + 0.02 for row in tested])
    middle = len(tested)
    assert list(band.y[:middle]) == pytest.approx([row["test_accuracy"] + 0.04 for row in tested])
    assert list(band.y[middle:])[::-1] == pytest.approx([row["test_accuracy"] for row in tested])
    assert figures.over_bytes(results(groups)).data[1].x[-1] == pytest.approx(38.0, abs=0.1)
    assert figures.over_seconds(results(groups)).data[1].x[-1] == pytest.approx(
        sum(row["seconds"] for row in records.rounds)
    )


def test_the_pareto_front(groups: list[Group]) -> None:
    points = [(3, 0.9), (1, 0.5), (2, 0.4), (1, 0.6), (4, 0.9)]
    assert list(figures.pareto_front(points)) == [(1, 0.6), (3, 0.9)]
    assert list(figures.pareto_front(points, higher_is_better=False)) == [(1, 0.5), (2, 0.4)]
    front, runs, mean, *_ = figures.pareto(results(groups)).data
    assert len(front.x) == 2 and len(runs.x) == 3 and list(mean.x) == [front.x[-1]]


def test_the_page_is_complete_and_escaped(groups: list[Group]) -> None:
    evil = "<img src=x onerror=alert(1)></script>"
    runs = [run._replace(folder=Path("/x") / "<b>name") for group in groups for run in group.runs]
    runs.append(runs[0]._replace(config=runs[0].config | {"method": {"name": evil}, "seed": 0}, summary={}))
    text = page(results(grouped(runs), 0.9), Path())
    parsed = Parsed(text)
    assert parsed.ids == ["accuracy-over-rounds", "accuracy-over-bytes", "accuracy-over-time", "pareto"]
    assert parsed.links == [] and sum(len(script) > 1_000_000 for script in parsed.scripts) == 1
    rest = text.replace(max(parsed.scripts, key=len), "")
    assert "<img" not in rest and "<b>name" not in rest
    for expected in ("not finished: it has 50 of 50 rounds", "not reached", "Differing settings", "method.name"):
        assert expected in parsed.text
    assert "Compared with FedLoRU" in parsed.text and "Fewer than two shared seeds" in parsed.text


def test_the_page_links_to_the_pages_of_the_runs(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "runs" / name) for name in ("a & b", "c", "d")]
    for folder in folders[:2]:
        write(folder)
    place = tmp_path / "pages"
    place.mkdir()
    runs = [read(folder) for folder in folders]
    changed = [run._replace(config=run.config | {"seed": seed}) for seed, run in enumerate(runs)]
    text = page(results(grouped([*changed, variant(runs[2], 0, "fedavg", 0.0)])), place)
    links = [link for link in Parsed(text).links if link.endswith("report.html")]
    assert links == ["../runs/a%20%26%20b/report.html", "../runs/c/report.html"]
    assert re.search(r'<a href="[^"]+">a &amp; b</a>, <a href="[^"]+">c</a>, d<', text)


def test_the_terminal_table_marks_unfinished_runs(tmp_path: Path, records: Records) -> None:
    late = read(write_run(tmp_path / "late", rounds=4, planned=50))
    late = late._replace(config=late.config | {"seed": 3})
    text = printed(grouped([records, late]), 120)
    assert "3*, 7" in text and "* not finished" in text and "difference" not in text


def test_a_run_without_evaluations_has_dashes(records: Records) -> None:
    empty = records._replace(config=records.config | {"rounds": 9}, rounds=[], summary={})
    made = results(grouped([records, empty]), 0.5)
    assert table(made).rows[1][2:4] == ["–", "–"]
    assert Parsed(page(made, Path())).ids


def test_all_columns_fit_a_narrow_terminal(groups: list[Group]) -> None:
    text = printed(groups, 80, 0.9)
    assert "FedLoRU" in text and "14.9" in text and "23.1" in text
    assert max(map(len, text.splitlines())) <= 80
    for cell in table(results(groups, 0.9)).rows[0]:
        assert all(word in text for word in cell.split()[:1])
