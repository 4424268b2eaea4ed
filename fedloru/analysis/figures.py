"""How pictures for papers look, and how they are saved: as PDF and PNG, with the same bytes for the same data.

Figures are made without pyplot, so that no window system, global state or earlier figure matters.
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
    raise MissingExtraError("matplotlib", "analysis", "drawing pictures") from error

DECADES = 2.2
"""An axis over fewer powers of ten than this has ticks at 1, 2 and 5 times each."""

COLUMN = 3.4
"""The width of one column of a two-column page, in inches."""

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
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
    "pdf.fonttype": 42,  # fonts that a journal's checker accepts
    "savefig.dpi": 300,
}

FORMATS: dict[str, dict[str, Any]] = {
    ".pdf": {"CreationDate": None, "ModDate": None, "Creator": "fedloru", "Producer": "matplotlib"},
    ".png": {"Software": "fedloru"},
}
"""What is written of each format beside the picture: nothing that changes from day to day or between versions."""


@contextmanager
def paper_style() -> Iterator[None]:
    """Make or save pictures under ``SETTINGS``; also a decorator."""
    with mpl.rc_context(SETTINGS):
        yield


def panels(count: int = 1, height: float = 2.3, **shared: Any) -> tuple[Figure, Sequence[Axes]]:
    """Return an empty figure of one column's width, with ``count`` panels of ``height`` inches below one another."""
    figure = Figure(figsize=(COLUMN, height * count), layout="constrained")
    return figure, figure.subplots(count, squeeze=False, **shared)[:, 0]


def logarithmic(axes: Axes, which: str) -> None:
    """Give the axes in ``which`` ("x", "y" or "xy") a logarithmic scale, once all is drawn, and ticks to read off."""
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_minor_formatter(NullFormatter())
        low, high = axis.get_view_interval()
        if math.log10(high / low) < DECADES:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.5g}"))


def legend(axes: Axes, columns: int = 2, title: str | None = None) -> None:
    """Put the legend above the panel, where it covers nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, title=title)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``figure`` as ``stem`` with .pdf and .png, and return the two paths.

    Raises:
        OSError: the folder is missing, or cannot be written to.
    """
    paths = []
    for suffix, about in FORMATS.items():
        data = io.BytesIO()
        with paper_style():
            figure.savefig(data, format=suffix[1:], metadata=about)
        path = stem.with_name(stem.name + suffix)
        write_atomic(path, data.getvalue())
        paths.append(path)
    return paths
