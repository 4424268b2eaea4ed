import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from fedloru.report import Group, Records, comparison, comparison_figures, comparison_table, grouped, read, write_csv
from fedloru.report.results import reached, table

from .made_up import write_run
from .test_page import Parsed


def variant(run: Records, seed: int, method: str, gain: float) -> Records:
    """Return a copy of ``run`` with another seed and method, and accuracies higher by ``gain``."""
    rows = [
        row | {"test_accuracy": row["test_accuracy"] + gain if row["test_accuracy"] is not None else None}
        for row in run.rounds
    ]
    accuracies = [row["test_accuracy"] for row in rows if row["test_accuracy"] is not None]
    summary = run.summary | {"final_accuracy": accuracies[-1], "last5_accuracy": sum(accuracies[-5:]) / 5}
    config = run.config | {"seed": seed, "method": {"name": method}}
    return run._replace(folder=Path(f"{method}-{seed}"), config=config, rounds=rows, summary=summary)


@pytest.fixture
def groups(records: Records) -> list[Group]:
    runs = [variant(records, seed, "fedloru", 0.02 * seed) for seed in range(3)]
    cheap = [row | {"up_bytes_total": row["up_bytes_total"] // 2} for row in records.rounds]
    return grouped([*runs, variant(records._replace(rounds=cheap), 0, "fedlora", -0.1)])


def test_means_and_standard_deviations(groups: list[Group], records: Records) -> None:
    head, (first, second) = table(groups, target=0.9)
    cells = dict(zip(head, first, strict=True))
    final = 100 * records.summary["final_accuracy"]
    assert (cells[""], cells["seeds"]) == ("fedloru", "0, 1, 2")
    assert cells["final, %"] == f"{final + 2:.1f} ± 2.0"
    assert cells["MB up"] == "14.9" and cells["MB down"] == "23.1"
    assert cells["personal, local tests, %"].endswith("± 0.0")
    single = dict(zip(head, second, strict=True))
    assert single["final, %"] == f"{final - 10:.1f}" and single["rounds to 90 %"] == "not reached"


def test_the_cost_of_a_target_is_the_mean_over_the_seeds_that_reached_it(groups: list[Group], records: Records) -> None:
    runs = groups[0].runs
    best = [max(row["test_accuracy"] or 0 for row in run.rounds) for run in runs]
    target = (best[0] + best[1]) / 2
    head, (first, _) = table(groups, target)
    rounds = [reached(run, target) for run in runs]
    assert rounds[0] is None and rounds[1] is not None and rounds[2] is not None
    reported = next(cell for name, cell in zip(head, first, strict=True) if name.startswith("rounds to"))
    assert reported == f"{(rounds[1] + rounds[2]) / 2:.1f} (2 of 3)"
    mb = next(cell for name, cell in zip(head, first, strict=True) if name.startswith("MB to"))
    sent = [row["up_bytes_total"] + row["down_bytes_total"] for row in records.rounds]
    assert mb == f"{(sent[rounds[1] - 1] + sent[rounds[2] - 1]) / 2e6:.1f} (2 of 3)"


def test_curves_are_means_with_min_max_bands(groups: list[Group], records: Records) -> None:
    band, mean, single = comparison_figures.over_rounds(groups).data
    tested = [row for row in records.rounds if row["test_accuracy"] is not None]
    assert list(mean.x) == [row["round"] for row in tested] == list(single.x)
    assert list(mean.y) == pytest.approx([row["test_accuracy"] + 0.02 for row in tested])
    middle = len(tested)
    assert list(band.y[:middle]) == pytest.approx([row["test_accuracy"] + 0.04 for row in tested])
    assert list(band.y[middle:])[::-1] == pytest.approx([row["test_accuracy"] for row in tested])
    assert comparison_figures.over_bytes(groups).data[1].x[-1] == pytest.approx(38.0, abs=0.1)
    assert comparison_figures.over_seconds(groups).data[1].x[-1] == pytest.approx(
        sum(row["seconds"] for row in records.rounds)
    )


def test_the_pareto_front(groups: list[Group]) -> None:
    assert list(comparison_figures.pareto_front([(3, 0.9), (1, 0.5), (2, 0.4), (1, 0.6), (4, 0.9)])) == [
        (1, 0.6),
        (3, 0.9),
    ]
    front, runs, mean, *_ = comparison_figures.pareto(groups).data
    assert len(front.x) == 2 and len(runs.x) == 3 and list(mean.x) == [front.x[-1]]


def test_the_page_is_complete_and_escaped(groups: list[Group]) -> None:
    evil = "<img src=x onerror=alert(1)></script>"
    runs = [run._replace(folder=Path("/x") / "<b>name") for group in groups for run in group.runs]
    runs.append(runs[0]._replace(config=runs[0].config | {"method": {"name": evil}, "seed": 0}, summary={}))
    text = comparison(grouped(runs), 0.9)
    parsed = Parsed(text)
    assert parsed.ids == ["accuracy-over-rounds", "accuracy-over-bytes", "accuracy-over-time", "pareto"]
    assert parsed.links == [] and sum(len(script) > 1_000_000 for script in parsed.scripts) == 1
    rest = text.replace(max(parsed.scripts, key=len), "")
    assert "<img" not in rest and "<b>name" not in rest
    for expected in ("not finished: it has 50 of 50 rounds", "not reached", "Differing settings", "method.name"):
        assert expected in parsed.text


def test_the_terminal_table_marks_unfinished_runs(tmp_path: Path, records: Records) -> None:
    late = read(write_run(tmp_path / "late", rounds=4, planned=50))
    late = late._replace(config=late.config | {"seed": 3})
    console = Console(file=io.StringIO(), width=120)
    console.print(comparison_table(grouped([records, late])))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3*, 7" in text and "* not finished" in text


def test_a_run_without_evaluations_has_dashes(records: Records) -> None:
    empty = records._replace(config=records.config | {"rounds": 9}, rounds=[], summary={})
    groups = grouped([records, empty])
    _, (_, row) = table(groups, 0.5)
    assert row[2:4] == ["–", "–"]
    assert Parsed(comparison(groups, 0.5)).ids


def test_the_csv_file_has_one_line_per_run_and_round(tmp_path: Path, groups: list[Group], records: Records) -> None:
    write_csv(tmp_path / "all.csv", groups)
    lines = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert len(lines) == 4 * 50 and list(lines[0])[:4] == ["group", "seed", "round", "accuracy"]
    last = records.rounds[-1]
    assert lines[49] == {
        "group": "fedloru",
        "seed": "0",
        "round": "50",
        "accuracy": str(last["test_accuracy"]),
        "loss": str(last["test_loss"]),
        "up_mb": str(last["up_bytes_total"] / 1e6),
        "down_mb": str(last["down_bytes_total"] / 1e6),
        "seconds": str(round(sum(row["seconds"] for row in records.rounds), 6)),
    }
    assert lines[2]["accuracy"] == ""


def test_all_columns_fit_a_narrow_terminal(groups: list[Group]) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table(groups, 0.9))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "fedloru" in text and "14.9" in text and "23.1" in text
    assert max(map(len, text.splitlines())) <= 80
    for cell in table(groups, 0.9)[1][0]:
        assert all(word in text for word in cell.split()[:1])
