"""Studies of a run are read from its folder and plotted on its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedloru.errors import RunFolderError
from fedloru.report import page, read, study_figures, style

from .made_up import alignment, ranks, write_study
from .test_page import Parsed


def test_studies_are_sorted_by_round(run: Path) -> None:
    assert (read(run).ranks, read(run).alignment) == ([], [])
    for round in (5, 20, 0):
        write_study(run, "ranks", ranks(round))
    write_study(run, "alignment", alignment(20))
    records = read(run)
    assert [study["of"]["round"] for study in records.ranks] == [0, 5, 20]
    assert list(records.alignment) == [alignment(20)]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read: it is not valid JSON"), ('{"of": {}}', "has no records: run the analysis again")],
)
def test_a_damaged_study_is_an_error(run: Path, text: str, message: str) -> None:
    write_study(run, "ranks", ranks(5)).write_text(text)
    with pytest.raises(RunFolderError, match=rf"ranks-5\.json {message}"):
        read(run)


def test_the_page_has_the_figures_of_each_study(run: Path) -> None:
    before = set(Parsed(page(read(run))).ids)
    write_study(run, "ranks", ranks(5))
    write_study(run, "alignment", alignment(20))
    parsed = Parsed(page(read(run)))
    assert set(parsed.ids) - before == {
        "stable-rank-of-the-hessian-after-round-5",
        "spectrum-of-the-hessian-after-round-5",
        "stable-rank-of-the-gauss-newton-matrix-after-round-5",
        "spectrum-of-the-gauss-newton-matrix-after-round-5",
        "gradients-truncated-to-low-rank-after-round-20",
        "gradients-in-the-top-eigenspace-of-the-hessian-after-round-20",
    }
    assert "probability of at least 0.99. Hollow: fewer examples than classes" in parsed.text
    assert "The model has kinks." in parsed.text


def test_without_eigenvectors_there_is_no_eigenspace_figure(run: Path) -> None:
    study = alignment(20)
    del study["eigenspace"]
    write_study(run, "alignment", study)
    assert "top eigenspace" not in Parsed(page(read(run))).text


def test_stable_ranks_are_plotted_over_examples_with_intervals() -> None:
    hessian, _ = study_figures.by_kind(ranks(5)).values()
    server, _, client = study_figures.stable_ranks(hessian).data
    assert (list(server.x), list(server.y)) == ([4000], [3.0])
    assert (list(client.x), list(client.y)) == ([40, 5], [9.0, 1.0])
    assert list(client.error_y.array) == pytest.approx([1.8, 0.2])
    assert list(client.error_y.arrayminus) == pytest.approx([0.9, 0.1])
    assert list(client.marker.symbol) == ["circle", "circle-open"]


def test_a_loss_without_a_stable_rank_is_omitted() -> None:
    records = [{**record, "stable_rank": None} for record in ranks(5)["records"]]
    assert len(study_figures.stable_ranks(records).data) == 0


def test_eigenvalues_are_counted_from_the_largest() -> None:
    record = ranks(5)["records"][0]
    assert study_figures.beyond(record, 1) == ([0.1, 0.5, 3.0], pytest.approx([8.0, 3.0, 1.0]))
    assert study_figures.beyond(record, -1) == ([0.2], pytest.approx([2.0]))
    positive, negative = study_figures.spectra([record]).data
    assert list(positive.y) == pytest.approx([8.0, 3.0, 1.0]) and positive.line.shape == "vh"
    assert list(negative.x) == [0.2] and not negative.showlegend


def test_only_the_first_spectra_are_plotted() -> None:
    records = ranks(5)["records"][:1] * 12
    assert len(study_figures.spectra(records).data) == 2 * len(style.CLASSES)
    assert "first 10 of 12 losses" in study_figures.spectra_caption(records)


def test_cosines_are_plotted_over_ranks_with_the_chance_level() -> None:
    chance, overall, *weights = study_figures.alignment(alignment(5)).data
    assert list(overall.x) == ["1", "4", "full"] and list(overall.y) == pytest.approx([0.1, 0.4, 0.9])
    assert [line.name for line in weights] == ["fc1", "fc2"]
    assert set(chance.y) == {0.06, -0.06}
    assert len(study_figures.alignment(alignment(5, weights=1)).data) == 2, "a single weight equals all weights"
    assert "first 9 of 30 weights" in study_figures.alignment_caption(alignment(5, weights=30))


def test_there_is_one_share_per_client() -> None:
    (bar,) = study_figures.shares(alignment(5)).data
    assert (list(bar.x), list(bar.y)) == (["2", "5"], [0.25, 0.75])
    assert "the top 2 eigenvectors" in study_figures.shares_caption(alignment(5))
    assert "Chance level: 0.02 %" in study_figures.shares_caption(alignment(5))


def test_names_in_a_study_are_escaped(run: Path) -> None:
    evil = "</script><img src=x onerror=alert(2)>"
    study = alignment(20)
    study["agreement"][evil] = study["agreement"]["all"]
    write_study(run, "alignment", study)
    spectra = ranks(5)
    spectra["of"]["notes"] = [evil]
    for record in spectra["records"]:
        record["subject"] = evil
    write_study(run, "ranks", spectra)
    traces = (study_figures.spectra(spectra["records"]).data[0], study_figures.alignment(study).data[-1])
    assert all(trace.name.startswith("&lt;/script&gt;") for trace in traces)
    text = page(read(run))
    assert "<img" not in text.replace(max(Parsed(text).scripts, key=len), "")
