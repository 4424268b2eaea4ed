"""Figures show their data, legends cover none of it, and saved files do not depend on the date."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from fedloru.analysis import matrices, pictures
from fedloru.analysis.alignment import Agreement
from fedloru.analysis.figures import paper_style, save

SPIKES = (10.0, -4.0)


def record(subject: str, examples: int, rank: float) -> dict[str, object]:
    density = {"nodes": [-0.2, 0.1, 0.5, 3.0], "weights": [0.2, 0.5, 0.2, 0.1]}
    estimate = {"value": rank, "low": 0.9 * rank, "high": 1.2 * rank}
    return {"subject": subject, "examples": examples, "stable_rank": estimate, "parameters": 10, "density": density}


RECORDS = [
    record("server", 4000, 3.0),
    record("subset", 100, 6.0),
    record("client 3", 40, 9.0),
    record("client 7", 50, 8.0),
]
AGREEMENTS = [Agreement(r, 1 / (r or 9), 0.02, 0.1, 0.02, 0.01, 0.5, 0.9) for r in (1, 2, 4, None)]
MODELLED = [
    pictures.Modelled(n, matrices.predict(SPIKES, 1, n, 50), matrices.simulate(SPIKES, 1, n, 50, 0)) for n in (10, 100)
]
RATES = [
    pictures.Rate(label, [10, 40, 90], [[1.0, 0.5, 0.3], [3.0, 0.7, 0.5]], -0.6, 8.0)
    for label in ("FedAvg", "FedLoRU τ=1", "FedLoRU τ=5", "FedLoRA")
]
CURVES = {"fc1": [(1, 1.0), (5, 2.0)], "fc2": [(1, 3.0)]}

PICTURES: dict[str, Callable[[], Figure]] = {
    "stable_ranks": lambda: pictures.stable_ranks(RECORDS),
    "spectra": lambda: pictures.spectra(RECORDS),
    "alignment": lambda: pictures.alignment({"fc1": AGREEMENTS, "all": AGREEMENTS}),
    "modelled": lambda: pictures.modelled(MODELLED),
    "compared": lambda: pictures.compared([matrices.Compared(10, 5.0, 6.0), matrices.Compared(90, 2.0, 2.5)]),
    "rates": lambda: pictures.rates(RATES, "rounds T"),
    "ranks": lambda: pictures.ranks(CURVES, "effective rank"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_axes_are_labelled_and_legends_cover_no_data(name: str) -> None:
    figure = PICTURES[name]()
    with paper_style():
        figure.draw_without_rendering()
    assert figure.axes[-1].get_xlabel()
    for axes in figure.axes:
        assert axes.get_ylabel()
        assert axes.get_window_extent().width > 0.75 * figure.bbox.width
        if legend := axes.get_legend():
            assert legend.get_window_extent().y0 >= axes.get_window_extent().y1 - 1
            assert legend.get_window_extent().x1 <= figure.bbox.x1
        for text in (axes.xaxis.label, axes.yaxis.label):
            assert figure.bbox.x0 <= text.get_window_extent().x0 and text.get_window_extent().y0 >= figure.bbox.y0


def test_saved_figures_do_not_depend_on_the_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = [path.read_bytes() for path in save(PICTURES["rates"](), tmp_path / "a.b")]
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setitem(os.environ, "SOURCE_DATE_EPOCH", "2000000000")
    again = save(PICTURES["rates"](), tmp_path / "again")
    assert [path.suffix for path in again] == [".pdf", ".png"] and (tmp_path / "a.b.pdf").exists()
    assert [path.read_bytes() for path in again] == once
    assert b"Date" not in once[0] and b"%PDF" in once[0][:8] and b"PNG" in once[1][:8]


def test_stable_ranks_are_plotted_with_intervals_in_one_colour_per_kind_of_loss() -> None:
    (axes,) = PICTURES["stable_ranks"]().axes
    server, subset, client = axes.containers
    assert list(client.lines[0].get_xdata()) == [40, 50] and list(client.lines[0].get_ydata()) == [9, 8]
    low, high = server.lines[1]
    assert (low.get_ydata()[0], high.get_ydata()[0]) == (pytest.approx(2.7), pytest.approx(3.6))
    assert [text.get_text() for text in axes.get_legend().texts] == ["server", "subset", "client"]
    assert len({part.lines[0].get_color() for part in (server, subset, client)}) == 3


def test_a_record_without_stable_rank_is_left_out() -> None:
    (axes,) = pictures.stable_ranks([*RECORDS[:1], RECORDS[1] | {"stable_rank": None}]).axes
    assert [text.get_text() for text in axes.get_legend().texts] == ["server"]


def test_spectra_count_eigenvalues_from_the_tail() -> None:
    """Of 10 eigenvalues, 5 are at 0.1, 2 at 0.5, 1 at 3, and 2 at −0.2."""
    (axes,) = pictures.spectra(RECORDS[:1]).axes
    positive, negative = axes.lines
    assert list(positive.get_xdata()) == [0.1, 0.5, 3.0] and list(positive.get_ydata()) == pytest.approx([8, 3, 1])
    assert list(negative.get_xdata()) == [0.2] and list(negative.get_ydata()) == pytest.approx([2])


def test_the_legend_says_how_many_spectra_are_shown() -> None:
    for count, title in ((6, ""), (8, "the first 6 of 8 losses")):
        (axes,) = pictures.spectra([record(f"client {k}", 40, 9.0) for k in range(count)]).axes
        assert axes.get_legend().get_title().get_text() == title
        assert len(axes.lines) == 12


def test_compared_stable_ranks_are_labelled_by_their_examples() -> None:
    (axes,) = PICTURES["compared"]().axes
    assert {text.get_text(): text.xy for text in axes.texts} == {"10": (6.0, 5.0), "90": (2.5, 2.0)}


def test_alignment_has_a_chance_band_and_a_line_for_full_gradients() -> None:
    (axes,) = pictures.alignment({"fc1": AGREEMENTS}).axes
    assert list(axes.containers[0].lines[0].get_ydata()) == [1, 0.5, 0.25]
    (full,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert full.get_ydata()[0] == pytest.approx(1 / 9)
    (band,) = [c for c in axes.collections if len(c.get_paths()[0].vertices) > 4]
    assert (band.get_datalim(axes.transData).y0, band.get_datalim(axes.transData).y1) == pytest.approx((-0.02, 0.02))


def test_rates_are_plotted_with_their_power_law() -> None:
    (axes,) = pictures.rates(RATES[:1], "rounds T").axes
    dots, line = axes.lines
    assert list(dots.get_ydata()) == pytest.approx([2, 0.6, 0.4])
    assert list(line.get_ydata()) == pytest.approx([8 * t**-0.6 for t in (10, 40, 90)])
    assert "−0.60" in dots.get_label()


def test_predictions_and_draws_share_their_axes() -> None:
    upper, lower = PICTURES["modelled"]().axes
    predicted, drawn = upper.lines[2:]
    assert list(predicted.get_ydata()) == [value for row in MODELLED for value in row.predicted.outliers]
    assert list(drawn.get_ydata()) == [value for row in MODELLED for value in row.observed.outliers]
    assert [line.get_ydata()[0] for line in lower.lines] == [
        MODELLED[0].predicted.stable_rank,
        MODELLED[0].observed.stable_rank,
    ]
