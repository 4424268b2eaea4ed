"""Several runs as one HTML page that needs nothing else, and as a table on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedloru.files import write_atomic
from fedloru.report import blocks, units
from fedloru.report.groups import Group, cautions, differences
from fedloru.report.results import NOT_FINISHED, table

if TYPE_CHECKING:
    from rich.table import Table

BANDS = "Lines are means over seeds, at the rounds that all were evaluated in; bands go from the least to the greatest."


def write_comparison(path: Path, groups: Sequence[Group], target: float | None = None) -> None:
    """Write the page of ``groups``, with what it took to reach the accuracy ``target``.

    Raises:
        OSError: the folder is missing, or cannot be written to.
    """
    write_atomic(path, comparison(groups, target).encode())


def comparison(groups: Sequence[Group], target: float | None = None) -> str:
    """Return the page of ``groups``; plotly's script is inside, so that it is about 5 MB."""
    from plotly.offline import get_plotlyjs

    runs = sum(len(group.runs) for group in groups)
    title = f"{runs} run{'s' * (runs != 1)} in {len(groups)} group{'s' * (len(groups) != 1)}"
    facts = ["Grouped by their configurations; the runs of a group differ only by their seeds"]
    parts = [
        blocks.header("Comparison", title, facts, cautions(groups)),
        blocks.section("Numbers", _numbers(groups, target)),
        blocks.section("Learning", _learning(groups)),
        blocks.section("Set-up", _setup(groups)),
    ]
    return blocks.document(f"{title} · fedloru", parts, get_plotlyjs())


def comparison_table(groups: Sequence[Group], target: float | None = None) -> Table:
    """Return the numbers of ``groups`` for the terminal, a row a group."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    head, rows = table(groups, target)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), caption_justify="left")
    shown.caption = NOT_FINISHED if _unfinished(groups) else None
    shown.add_column(head[0], min_width=max(len(word) for row in rows for word in row[0].split()))
    for name in head[1:]:
        shown.add_column(name, justify="right", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown


def _unfinished(groups: Sequence[Group]) -> bool:
    return not all(run.summary for group in groups for run in group.runs)


def _numbers(groups: Sequence[Group], target: float | None) -> Iterator[str]:
    caption = "Mean ± standard deviation over seeds; accuracies on the test set. MB are 10⁶ bytes."
    if _unfinished(groups):
        caption = f"{caption} {NOT_FINISHED}."
    yield blocks.card("All groups", blocks.scrolled(blocks.table(*table(groups, target))), caption, wide=True)


def _learning(groups: Sequence[Group]) -> Iterator[str]:
    from fedloru.report import comparison_figures

    rounds = blocks.plot("accuracy-over-rounds", comparison_figures.over_rounds(groups))
    yield blocks.card("Accuracy over rounds", rounds, BANDS, wide=True)
    yield blocks.card("Accuracy over bytes", blocks.plot("accuracy-over-bytes", comparison_figures.over_bytes(groups)))
    yield blocks.card("Accuracy over time", blocks.plot("accuracy-over-time", comparison_figures.over_seconds(groups)))
    caption = "A small dot is a run, a large one the mean of its group; no mean is above and left of the dotted line."
    yield blocks.card(
        "What accuracy costs", blocks.plot("pareto", comparison_figures.pareto(groups)), caption, wide=True
    )


def _setup(groups: Sequence[Group]) -> Iterator[str]:
    rows = [(key, *map(_shown, values)) for key, values in differences(groups).items()]
    if rows:
        head = ("", *(group.label for group in groups))
        yield blocks.card("In what they differ", blocks.scrolled(blocks.table(head, rows)), wide=True)
    folders = [(group.label, ", ".join(run.name for run in group.runs)) for group in groups]
    yield blocks.card("Run folders", blocks.table((), folders), wide=True)


def _shown(value: Any) -> str:
    return units.DASH if value is None else units.plain(value) if not isinstance(value, bool) else str(value).lower()
