"""The comparison of several runs, as a self-contained HTML page and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedloru.files import write_atomic
from fedloru.report import blocks, plotly_script, units
from fedloru.report.groups import Group, cautions, differences
from fedloru.report.results import NOT_FINISHED, table

if TYPE_CHECKING:
    from rich.table import Table

BANDS = "Lines: mean over seeds, at the rounds in which all runs of a group were evaluated. Bands: minimum to maximum."


def write_comparison(path: Path, groups: Sequence[Group], target: float | None = None) -> None:
    """Write the comparison page of ``groups``; given ``target``, with the cost of reaching that accuracy.

    Raises:
        OSError: the folder does not exist or is not writable.
    """
    write_atomic(path, comparison(groups, target).encode())


def comparison(groups: Sequence[Group], target: float | None = None) -> str:
    """Return the comparison page of ``groups``, about 5 MB because plotly's script is embedded."""
    runs = sum(len(group.runs) for group in groups)
    title = f"{runs} run{'s' * (runs != 1)} in {len(groups)} group{'s' * (len(groups) != 1)}"
    facts = ["Grouped by configuration; the runs of a group differ only in their seeds"]
    parts = [
        blocks.header("Comparison", title, facts, cautions(groups)),
        blocks.section("Results", _results(groups, target)),
        blocks.section("Learning curves", _curves(groups)),
        blocks.section("Setup", _setup(groups)),
    ]
    return blocks.document(f"{title} · fedloru", parts, plotly_script.embedded())


def comparison_table(groups: Sequence[Group], target: float | None = None) -> Table:
    """Return the results of ``groups`` as a table for the terminal, one row per group."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    head, rows = table(groups, target)
    rich_table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), caption_justify="left")
    rich_table.caption = NOT_FINISHED if _unfinished(groups) else None
    rich_table.add_column(head[0], min_width=max(len(word) for row in rows for word in row[0].split()))
    for name in head[1:]:
        rich_table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        rich_table.add_row(*map(Text, row))
    return rich_table


def _unfinished(groups: Sequence[Group]) -> bool:
    return not all(run.summary for group in groups for run in group.runs)


def _results(groups: Sequence[Group], target: float | None) -> Iterator[str]:
    caption = "Mean ± standard deviation over seeds; accuracies on the test set. 1 MB = 10⁶ bytes."
    if _unfinished(groups):
        caption = f"{caption} {NOT_FINISHED}."
    yield blocks.card("All groups", blocks.scrolled(blocks.table(*table(groups, target))), caption, wide=True)


def _curves(groups: Sequence[Group]) -> Iterator[str]:
    from fedloru.report import comparison_figures

    rounds = blocks.plot("accuracy-over-rounds", comparison_figures.over_rounds(groups))
    yield blocks.card("Accuracy over rounds", rounds, BANDS, wide=True)
    yield blocks.card("Accuracy over bytes", blocks.plot("accuracy-over-bytes", comparison_figures.over_bytes(groups)))
    yield blocks.card("Accuracy over time", blocks.plot("accuracy-over-time", comparison_figures.over_seconds(groups)))
    caption = "Small markers: runs. Large markers: group means. Dotted line: Pareto front of the means."
    yield blocks.card(
        "Accuracy vs. communication", blocks.plot("pareto", comparison_figures.pareto(groups)), caption, wide=True
    )


def _setup(groups: Sequence[Group]) -> Iterator[str]:
    rows = [(key, *map(_setting, values)) for key, values in differences(groups).items()]
    if rows:
        head = ("", *(group.label for group in groups))
        yield blocks.card("Differing settings", blocks.scrolled(blocks.table(head, rows)), wide=True)
    folders = [(group.label, ", ".join(run.name for run in group.runs)) for group in groups]
    yield blocks.card("Run folders", blocks.table((), folders), wide=True)


def _setting(value: Any) -> str:
    return units.DASH if value is None else units.plain(value) if not isinstance(value, bool) else str(value).lower()
