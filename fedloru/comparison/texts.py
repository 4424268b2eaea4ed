"""A comparison as text for papers and other programs: LaTeX, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fedloru.comparison.groups import Group, seed
from fedloru.comparison.measures import MEGA
from fedloru.comparison.metric import measured
from fedloru.comparison.results import Results, Text, differences, rows, table
from fedloru.report.records import Records

LATEX_START = "% Comparison by fedloru"
FITTED = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}"
"""Shrinks what follows to the width of the text, if it is wider."""
MARKDOWN_START = "<!-- Comparison by fedloru -->"

_GREEK = (
    "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon varphi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
)
_LATEX = {
    **dict(zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ", (f"$\\{name}$" for name in _GREEK.split()), strict=True)),
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "|": "\\textbar{}"},
    **{"<": "$<$", ">": "$>$", "±": "$\\pm$", "−": "$-$", "×": "$\\times$", "≤": "$\\le$", "≥": "$\\ge$"},
    **{
        "–": "--",
        "—": "---",
        "…": "\\dots{}",
        "∞": "$\\infty$",
        "⁶": "$^6$",
        "²": "$^2$",
        "·": "$\\cdot$",
        "°": "$^\\circ$",
    },
    **{"[": "{[}", "]": "{]}"},  # a row that begins with [ would be an argument of the row before it
}


def latex(results: Results) -> str:
    """Return the tables as LaTeX, which needs the packages booktabs and graphicx."""
    parts = zip(_parts(results), (_best(results), None), ("comparison", "differences"), strict=False)
    return "\n".join(
        [f"{LATEX_START}; needs \\usepackage{{booktabs,graphicx}}", *(_latex_table(*part) for part in parts)]
    )


def escaped(text: str) -> str:
    """Return ``text`` such that LaTeX prints it; letters of other scripts than Latin and Greek are left as they are."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_table(part: Text, best: int | None, label: str) -> str:
    columns = "l" * 2 + "r" * (len(part.head) - 2)
    lines = [list(map(escaped, row)) for row in part.rows]
    if best is not None:
        lines[best][2] = f"\\textbf{{{lines[best][2]}}}"
    body = "\n".join(f"{' & '.join(line)} \\\\" for line in lines)
    return f"""\\begin{{table}}
\\centering
\\caption{{{escaped(_caption(part, best))}}}
\\label{{tab:{label}}}
{FITTED}{{%
\\begin{{tabular}}{{{columns}}}
\\toprule
{" & ".join(map(escaped, part.head))} \\\\
\\midrule
{body}
\\bottomrule
\\end{{tabular}}}}
\\end{{table}}
"""


def markdown(results: Results) -> str:
    """Return the tables as Markdown."""
    tables = [_markdown_table(part, None if index else _best(results)) for index, part in enumerate(_parts(results))]
    return "\n".join([MARKDOWN_START, "", *tables])


def _markdown_table(part: Text, best: int | None) -> str:
    lines = [list(map(_plain_markdown, row)) for row in part.rows]
    if best is not None:
        lines[best][2] = f"**{lines[best][2]}**"
    rule = ["---"] * 2 + ["--:"] * (len(part.head) - 2)
    table = [list(map(_plain_markdown, part.head)), rule, *lines]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in table), "", _caption(part, best), ""])


def _plain_markdown(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\|*_<>[]`" else character for character in text)


def table_csv(results: Results) -> str:
    """Return the rows of ``results`` as CSV; seeds are separated by spaces, and a missing value is an empty cell."""
    lines = [row | {"seeds": " ".join(map(str, row["seeds"]))} for row in rows(results)]
    return _csv(list(lines[0]), (line.values() for line in lines))


def rounds_csv(results: Results) -> str:
    """Return one line of CSV per round of each run, before training included; MB and seconds are cumulative."""
    metrics = list(measured([run for group in results.groups for run in group.runs]))
    head = ["group", "seed", "round", *(metric.key for metric in metrics), "up_mb", "down_mb", "seconds"]
    columns = [metric.column for metric in metrics]
    return _csv(head, (line for group in results.groups for line in _rounds(group, columns)))


def _rounds(group: Group, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for run in group.runs:
        yield from _rounds_of(group.label, run, columns)


def _rounds_of(label: str, run: Records, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    seconds = 0.0
    for row in run.measured:
        seconds += row["seconds"]
        totals = (row["up_bytes_total"] / MEGA, row["down_bytes_total"] / MEGA, round(seconds, 6))
        yield (label, seed(run), row["round"], *map(row.get, columns), *totals)


def _csv(head: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()


def _parts(results: Results) -> list[Text]:
    return [part for part in (table(results), differences(results)) if part]


def _caption(part: Text, best: int | None) -> str:
    return part.caption if best is None else f"{part.caption} Bold: the best mean."


def _best(results: Results) -> int | None:
    """Return the index of the group with the best mean of the metric, which is printed in bold."""
    found = [(row[results.metric.key], index) for index, row in enumerate(rows(results))]
    known = [(value, index) for value, index in found if value is not None]
    choose = max if results.metric.higher_is_better else min
    return choose(known)[1] if len(known) > 1 else None
