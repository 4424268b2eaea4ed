"""The comparison of runs as a self-contained HTML page, and as tables for the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fedloru.comparison.groups import Group, cautions
from fedloru.comparison.groups import differences as differing_settings
from fedloru.comparison.results import NOT_FINISHED, Results, Text, differences, table
from fedloru.errors import counted
from fedloru.report import blocks, plotly_script, units
from fedloru.report.page import REPORT
from fedloru.report.records import Records

if TYPE_CHECKING:
    from rich.table import Table

BANDS = "Lines: mean over seeds, at the rounds in which all runs of a group were evaluated. Bands: minimum to maximum."


def page(results: Results, folder: Path) -> str:
    """Return the page, about 5 MB because plotly's script is embedded; it links to the runs' pages from ``folder``."""
    groups = results.groups
    title = title_of(results)
    facts = ["Grouped by configuration; the runs of a group differ only in their seeds"]
    parts = [
        blocks.header("Comparison", title, facts, cautions(groups)),
        blocks.section("Results", _tables(results)),
        blocks.section("Learning curves", _curves(results)),
        blocks.section("Setup", _setup(results, folder)),
    ]
    return blocks.document(f"{title} · fedloru", parts, plotly_script.embedded())


def title_of(results: Results) -> str:
    """Return the title of the page, such as "6 runs in 2 groups"."""
    runs, groups = sum(len(group.runs) for group in results.groups), len(results.groups)
    return f"{counted(runs, 'run')} in {counted(groups, 'group')}"


def terminal_tables(results: Results, width: int) -> list[Table]:
    """Return the results and the paired differences as tables for a terminal of ``width`` columns."""
    means, compared = _terminal_table(table(results), width), differences(results)
    means.caption = NOT_FINISHED if results.unfinished else None
    if compared is None:
        return [means]
    second = _terminal_table(compared, width)
    second.caption = compared.caption
    return [means, second]


def _terminal_table(content: Text, width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text as Styled

    rich_table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), caption_justify="left")
    for index, (name, column) in enumerate(zip(content.head, _widths(content, width), strict=True)):
        rich_table.add_column(name, justify="right" if index else "left", overflow="fold", width=column)
    for row in content.rows:
        rich_table.add_row(*map(Styled, row))
    return rich_table


def _widths(content: Text, width: int) -> list[int]:
    """Return the widths of columns with which a table fits into ``width``, if it can, without breaking words."""
    columns = list(zip(content.head, *content.rows, strict=True))
    least = [max(len(word) for cell in column for word in cell.split()) for column in columns]
    widths = [max(low, *map(len, column)) for low, column in zip(least, columns, strict=True)]
    while sum(widths) + 2 * len(widths) > width and widths != least:
        excess = [given - low for given, low in zip(widths, least, strict=True)]
        widths[excess.index(max(excess))] -= 1
    while sum(widths) + 2 * len(widths) > width:
        widths[widths.index(max(widths))] -= 1
    return widths


def _tables(results: Results) -> Iterator[str]:
    compared = differences(results)
    for name, content in (("All groups", table(results)), (f"Compared with {results.baseline.label}", compared)):
        if content:
            body = blocks.scrolled(blocks.table(content.head, content.rows))
            yield blocks.card(name, body, content.caption, wide=True)


def _curves(results: Results) -> Iterator[str]:
    from fedloru.comparison import figures

    name = results.metric.name
    title = f"{name[:1].upper()}{name[1:]}"
    key = results.metric.key
    rounds = blocks.plot(f"{key}-over-rounds", figures.over_rounds(results))
    yield blocks.card(f"{title} over rounds", rounds, BANDS, wide=True)
    yield blocks.card(f"{title} over bytes", blocks.plot(f"{key}-over-bytes", figures.over_bytes(results)))
    yield blocks.card(f"{title} over time", blocks.plot(f"{key}-over-time", figures.over_seconds(results)))
    caption = "Small markers: runs. Large markers: group means. Dotted line: Pareto front of the means."
    pareto = blocks.plot("pareto", figures.pareto(results))
    yield blocks.card(f"{title} vs. communication", pareto, caption, wide=True)


def _setup(results: Results, folder: Path) -> Iterator[str]:
    groups = results.groups
    rows = [(key, *map(_setting, values)) for key, values in differing_settings(groups).items()]
    if rows:
        head = ("", *(group.label for group in groups))
        yield blocks.card("Differing settings", blocks.scrolled(blocks.table(head, rows)), wide=True)
    lines = "".join(_runs_of(group, folder) for group in groups)
    yield blocks.card(
        "Runs", f"<table><tbody>\n{lines}</tbody></table>", "Names link to the pages of the runs.", wide=True
    )


def _runs_of(group: Group, folder: Path) -> str:
    names = ", ".join(_linked(run, folder) for run in group.runs)
    return f'<tr><th scope="row">{escape(group.label)}</th><td>{names}</td></tr>\n'


def _linked(run: Records, folder: Path) -> str:
    """Return the name of a run as HTML, with a link to its page if it has one."""
    path, name = run.folder / REPORT, escape(run.name)
    if not path.is_file():
        return name
    try:
        link = quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())
    except ValueError:  # another drive
        link = path.resolve().as_uri()
    return f'<a href="{escape(link)}">{name}</a>'


def _setting(value: Any) -> str:
    return units.DASH if value is None else units.plain(value) if not isinstance(value, bool) else str(value).lower()
