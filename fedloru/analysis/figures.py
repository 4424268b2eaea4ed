"""The style of figures for papers, and how to save them as PDF, PNG and SVG; equal data gives identical bytes.

Figures are made without pyplot, so they need no display and depend neither on global state nor on earlier figures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedloru.errors import MissingExtraError
from fedloru.files import write_atomic
from fedloru.report import style

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
except ImportError as error:
    raise MissingExtraError("matplotlib", "analysis", "plotting") from error

DECADES = 2.2
"""An axis that spans fewer powers of ten than this has ticks at 1, 2 and 5 times each power."""

COLUMN = 3.4
"""The width of one column of a two-column page, in inches."""

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so it is the same everywhere
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.edgecolor": style.MUTED,
    "axes.labelcolor": style.INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": style.GRID,
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": style.MUTED,
    "ytick.color": style.MUTED,
    "text.color": style.INK,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "errorbar.capsize": 2,
    "pdf.fonttype": 42,  # TrueType fonts, which journals accept
    "savefig.dpi": 300,
    "svg.hashsalt": "fedloru",  # ids of elements are random otherwise
}

FORMATS: dict[str, dict[str, Any]] = {
    ".pdf": {"CreationDate": None, "ModDate": None, "Creator": "fedloru", "Producer": "matplotlib"},
    ".png": {"Software": "fedloru"},
    ".svg": {"Creator": "fedloru", "Date": None},
}
"""The metadata to save with each format; it contains nothing that depends on the date or the version."""


@contextmanager
def paper_style() -> Iterator[None]:
    """Apply ``SETTINGS`` while figures are made or saved; also usable as a decorator."""
    with mpl.rc_context(SETTINGS):
        yield


def panels(count: int = 1, height: float = 2.3, **shared: Any) -> tuple[Figure, Sequence[Axes]]:
    """Return an empty figure, one column wide, with ``count`` stacked panels, each ``height`` inches high."""
    figure = Figure(figsize=(COLUMN, height * count), layout="constrained")
    return figure, figure.subplots(count, squeeze=False, **shared)[:, 0]


def logarithmic(axes: Axes, which: str) -> None:
    """Set a logarithmic scale with readable ticks on the axes in ``which`` ("x", "y" or "xy"); call after plotting."""
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_minor_formatter(NullFormatter())
        low, high = axis.get_view_interval()
        if math.log10(high / low) < DECADES:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.5g}"))


def legend(axes: Axes, columns: int = 2, title: str | None = None, length: float | None = None) -> None:
    """Add a legend above the panel, where it covers no data; ``length`` is that of a line, in font sizes."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, title=title, handlelength=length
    )


def save(figure: Figure, stem: Path, suffixes: Sequence[str] = (".pdf", ".png")) -> list[Path]:
    """Write ``figure`` to ``stem`` with each of ``suffixes``, which are keys of ``FORMATS``, and return the paths.

    Raises:
        OSError: the folder is missing or not writable.
    """
    paths = []
    for suffix in suffixes:
        data = io.BytesIO()
        with paper_style():
            figure.savefig(data, format=suffix[1:], metadata=FORMATS[suffix])
        path = stem.with_name(stem.name + suffix)
        write_atomic(path, data.getvalue())
        paths.append(path)
    return paths
