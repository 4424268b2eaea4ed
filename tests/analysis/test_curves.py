"""Learning curves for papers: means, bands and labels, in files that do not depend on the date."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from fedloru.analysis.curves import Curve, curves
from fedloru.analysis.figures import COLUMN, FORMATS, paper_style, save

LINES = [Curve("FedAvg", [1, 2, 4], [50.0, 60.0, 70.0], [45.0, 55.0, 69.0], [55.0, 65.0, 71.0])]
MANY = [Curve(f"FedLoRU $r$ {index}", [1, 2], [index, index + 1]) for index in range(9)]


@pytest.fixture
def figure() -> Figure:
    return curves([("round", LINES), ("MB", [Curve("one", [0.5, 1.5], [1.0, 2.0])])], "test accuracy, %")


def test_panels_show_means_and_bands(figure: Figure) -> None:
    first, second = figure.axes
    (line,) = first.lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2, 4], [50.0, 60.0, 70.0])  # type: ignore[arg-type]
    (band,) = first.collections
    corners = band.get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (45.0, 71.0) and not second.collections  # type: ignore[index, call-overload]
    assert (first.get_xlabel(), second.get_xlabel()) == ("round", "MB")
    assert all(float(tick).is_integer() for tick in first.get_xticks()) and figure.get_figwidth() == COLUMN


def test_many_curves_differ_and_their_legend_covers_no_data() -> None:
    figure = curves([("round", MANY)], "loss")
    with paper_style():
        figure.draw_without_rendering()
    (axes,) = figure.axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    legend = axes.get_legend()
    assert len(looks) == len(MANY) and legend is not None
    assert legend.get_texts()[0].get_text() == r"FedLoRU \$r\$ 0"
    frame = legend.get_window_extent()
    assert frame.y0 >= axes.get_window_extent().y1 - 1 and frame.x1 <= figure.get_window_extent().x1 + 1


def test_files_are_the_same_every_time(figure: Figure, tmp_path: Path) -> None:
    again = curves([("round", LINES), ("MB", [Curve("one", [0.5, 1.5], [1.0, 2.0])])], "test accuracy, %")
    for first, second in zip(
        save(figure, tmp_path / "a", list(FORMATS)), save(again, tmp_path / "b", list(FORMATS)), strict=True
    ):
        assert first.suffix in FORMATS and first.read_bytes() == second.read_bytes()
        assert b"fedloru" in first.read_bytes()
