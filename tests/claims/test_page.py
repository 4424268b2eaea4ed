"""The page and the overview show results and count what is missing."""

from __future__ import annotations

from pathlib import Path

import claims
import pytest
from claim import budget, parts, stats, tables, tuning
from claim.contenders import Federation
from claim.runs import Job, Store

from tests.claims.small import CHOSEN, NOWHERE, SMALL, start


def test_the_page_shows_results_and_counts_what_is_missing(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "docs" / "claims.md"
    monkeypatch.setattr(tables, "RECOMMENDED", "fedloru-paper-best")
    assert start(monkeypatch, tmp_path / "out", "--docs", str(page)) == []
    # For each of three methods 1 + 4 + 4 trials, 3 of them with 2 more seeds, and 2 results.
    assert "At most 51 runs are missing." in page.read_text("utf-8")
    assert start(monkeypatch, tmp_path / "out")
    assert start(monkeypatch, tmp_path / "out", "--docs", str(page)) == []
    text = page.read_text("utf-8")
    assert "All runs are complete." in text
    table = [line for line in text.splitlines() if line.startswith("| FedLoRU as published, best τ | ")]
    assert "±" in table[0] and " %" in table[0]
    assert "**IID, 2 of 4**, where the first download of FedLoRU as published, best τ would add " in text
    leads = [line for line in text.splitlines() if line.startswith("| FedLoRA | ")][1]
    trials = {
        name: tuning.trials(SMALL, name, tuning.SHARE, Store(tmp_path / "out"), NOWHERE).best for name in CHOSEN[1:]
    }
    store = Store(tmp_path / "out")
    ranks = {name: budget.rank(SMALL, name, tuned.cycle, 0.4, NOWHERE) for name, tuned in trials.items()}
    own, ahead = (
        [store.records[Job(SMALL, name, ranks[name], tuned, seed).key]["result"]["accuracy"] for seed in (0, 1)]
        for name, tuned in trials.items()
    )
    lead = stats.interval([100 * (b - a) for a, b in zip(own, ahead, strict=True)])
    assert leads == f"| FedLoRA | {lead.shown(sign='+')} |"
    monkeypatch.setattr(tuning, "SEEDS", (*tuning.SEEDS, 103))
    assert start(monkeypatch, tmp_path / "out", "--docs", str(page)) == []
    once = "Tuned with one seed only: small (FedAvg; FedLoRA; FedLoRU as published, best τ)."
    assert once in page.read_text("utf-8")
    assert (tmp_path / "docs" / "pictures" / "claims-bytes-small.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("part", "federations", "shown"),
    [
        ("b", [SMALL, Federation("small", 6, 3)], ["| small | IID, 3 of 6 | ", "claims-clients-small-half.png"]),
        ("c", [SMALL._replace(scheme="dirichlet", alpha=5.0)], ["Dirichlet 5, 2 of 4", "claims-skew-small.png"]),
        ("d", [SMALL], ["| small | FedLoRA | `fc2.weight` | ", "claims-gains-small.png"]),
        ("e", [SMALL], ["**small, IID, 2 of 4**"]),
        ("f", [SMALL], ["**small, IID, 2 of 4**"]),
    ],
)
def test_every_part_has_its_tables_and_pictures(
    part: str,
    federations: list[Federation],
    shown: list[str],
    small: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pairs = [(federation, name) for federation in federations for name in ("fedavg", "fedlora")]
    wanted = [parts.Wanted(*pair, 0.4, diagnosed=part == "d") for pair in pairs]
    monkeypatch.setitem(claims.PARTS, part, lambda: iter(wanted))
    page = tmp_path / "claims.md"
    start(monkeypatch, tmp_path / "out", "--part", part, "--seeds", "1")
    start(monkeypatch, tmp_path / "out", "--part", part, "--seeds", "1", "--docs", str(page))
    text = page.read_text("utf-8")
    assert "All runs are complete." in text
    for each in shown:
        assert each in text
    assert len(list((tmp_path / "pictures").glob("*.png"))) == text.count("](pictures/")


def test_the_overview_is_put_between_the_comments_of_a_page(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tables, "OVERVIEW", (("fedlora", 0.4), ("fedloru-paper-best", 0.4)))
    start(monkeypatch, tmp_path / "out")
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- claims -->\nold\n<!-- /claims -->\nafter\n")
    assert start(monkeypatch, tmp_path / "out", "--readme", str(page)) == []
    lines = page.read_text("utf-8").splitlines()
    assert lines[:2] == ["before", "<!-- claims -->"] and lines[-2:] == ["<!-- /claims -->", "after"]
    assert lines[2].startswith("| data; clients | FedAvg | FedLoRA, 40 % |") and "old" not in lines
    assert lines[4].count(" | ") == 3 and "–" not in lines[4]
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path / "out", "--readme", str(tmp_path / "missing.md"))


def test_intervals_are_those_of_student() -> None:
    assert stats.interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / 3**0.5), rel=1e-6)
    assert stats.interval([1.0]) == (1.0, None)
    assert stats.differences({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.0, 1: 1.0, 3: 5.0}) == pytest.approx((1.0, 0.0))
    assert stats.ratios({0: 1.0}, {1: 2.0}) is None
    assert stats.interval([1.0, 2.0, 3.0]).shown() == "2.0 ± 2.5"
