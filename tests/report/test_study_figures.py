"""What was studied of a run afterwards is read from its folder, and drawn on its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedloru.errors import RunFolderError
from fedloru.report import page, read, study_figures, style

from .made_up import alignment, ranks, write_study
from .test_page import Parsed


def test_studies_come_in_the_order_of_their_rounds(run: Path) -> None:
    assert (read(run).ranks, read(run).alignment) == ([], [])
    for round in (5, 20, 0):
        write_study(run, "ranks", ranks(round))
    write_study(run, "alignment", alignment(20))
    found = read(run)
    assert [study["of"]["round"] for study in found.ranks] == [0, 5, 20]
    assert list(found.alignment) == [alignment(20)]


@pytest.mark.parametrize(("text", "told"), [("{", "is not valid JSON"), ('{"of": {}}', "has no records: make it anew")])
def test_a_damaged_study_is_told(run: Path, text: str, told: str) -> None:
    write_study(run, "ranks", ranks(5)).write_text(text)
    with pytest.raises(RunFolderError, match=rf"ranks-5\.json {told}"):
        read(run)


def test_the_page_has_a_figure_of_each(run: Path) -> None:
    before = set(Parsed(page(read(run))).ids)
    write_study(run, "ranks", ranks(5))
    write_study(run, "alignment", alignment(20))
    parsed = Parsed(page(read(run)))
    assert set(parsed.ids) - before == {
        "stable-rank-of-the-hessian-after-round-5",
        "spectrum-of-the-hessian-after-round-5",
        "stable-rank-of-the-gauss-newton-matrix-after-round-5",
        "spectrum-of-the-gauss-newton-matrix-after-round-5",
        "gradients-cut-to-low-rank-after-round-20",
        "gradients-in-the-top-of-curvature-after-round-20",
    }
    assert "with probability 0.99 or more. Hollow: fewer examples than classes" in parsed.text
    assert "The model has kinks." in parsed.text


def test_without_eigenvectors_there_is_no_figure_of_them(run: Path) -> None:
    study = alignment(20)
    del study["eigenspace"]
    write_study(run, "alignment", study)
    assert "in the top of curvature" not in Parsed(page(read(run))).text


def test_stable_ranks_stand_at_their_examples_with_their_intervals() -> None:
    hessian, _ = study_figures.by_kind(ranks(5)).values()
    server, _, client = study_figures.stable_ranks(hessian).data
    assert (list(server.x), list(server.y)) == ([4000], [3.0])
    assert (list(client.x), list(client.y)) == ([40, 5], [9.0, 1.0])
    assert list(client.error_y.array) == pytest.approx([1.8, 0.2])
    assert list(client.error_y.arrayminus) == pytest.approx([0.9, 0.1])
    assert list(client.marker.symbol) == ["circle", "circle-open"]


def test_a_loss_without_a_stable_rank_is_left_out() -> None:
    records = [{**record, "stable_rank": None} for record in ranks(5)["records"]]
    assert len(study_figures.stable_ranks(records).data) == 0


def test_eigenvalues_are_counted_from_the_largest() -> None:
    record = ranks(5)["records"][0]
    assert study_figures.beyond(record, 1) == ([0.1, 0.5, 3.0], pytest.approx([8.0, 3.0, 1.0]))
    assert study_figures.beyond(record, -1) == ([0.2], pytest.approx([2.0]))
    positive, negative = study_figures.spectra([record]).data
    assert list(positive.y) == pytest.approx([8.0, 3.0, 1.0]) and positive.line.shape == "vh"
    assert list(negative.x) == [0.2] and not negative.showlegend


def test_of_many_spectra_the_first_are_drawn() -> None:
    records = ranks(5)["records"][:1] * 12
    assert len(study_figures.spectra(records).data) == 2 * len(style.CLASSES)
    assert "first 10 of 12 losses" in study_figures.spectra_caption(records)


def test_cosines_stand_over_their_ranks_within_what_chance_allows() -> None:
    chance, whole, *weights = study_figures.alignment(alignment(5)).data
    assert list(whole.x) == ["1", "4", "whole"] and list(whole.y) == pytest.approx([0.1, 0.4, 0.9])
    assert [line.name for line in weights] == ["fc1", "fc2"]
    assert set(chance.y) == {0.06, -0.06}
    assert len(study_figures.alignment(alignment(5, weights=1)).data) == 2, "one weight is all there is"
    assert "first 9 of 30 weights" in study_figures.alignment_caption(alignment(5, weights=30))


def test_shares_are_the_clients() -> None:
    (bar,) = study_figures.shares(alignment(5)).data
    assert (list(bar.x), list(bar.y)) == (["2", "5"], [0.25, 0.75])
    assert "the 2 top eigenvectors" in study_figures.shares_caption(alignment(5))
    assert "by chance 0.02 %" in study_figures.shares_caption(alignment(5))


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
