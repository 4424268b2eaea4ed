"""The blocks a page is built of: text in, HTML out, and everything that comes in is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from fedloru.report.stylesheet import CSS

if TYPE_CHECKING:
    import plotly.graph_objects as go

SETTINGS = {"displayModeBar": False, "responsive": True}

PRINTED = """
for (const [moment, width] of [["beforeprint", "44rem"], ["afterprint", ""]])
  addEventListener(moment, () => {
    document.body.style.width = width;
    document.querySelectorAll(".js-plotly-plot").forEach(plot => Plotly.relayout(plot, {autosize: true}));
  });
"""
"""Draws the plots as wide as a sheet of paper, A4 or Letter, for as long as the page is printed."""


def document(title: str, blocks: Iterable[str], script: str) -> str:
    """Return a whole page; ``script`` is the one piece taken as it is."""
    body = "\n".join(blocks)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{CSS}</style>
<script>{script}</script>
<script>{PRINTED}</script>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def header(method: str, name: str, facts: Sequence[str], notes: Iterable[str]) -> str:
    """Return the head of the page: what ran, its name, facts in one line, and notes that must not be missed."""
    warned = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    line = escape(" · ".join(facts))
    return f'<header><p class="method">{escape(method)}</p><h1>{escape(name)}</h1><p>{line}</p>{warned}</header>'


def section(title: str, blocks: Iterable[str]) -> str:
    """Return blocks in a grid under a heading, or nothing where there are none."""
    inside = "\n".join(blocks)
    return f'<section><h2>{escape(title)}</h2>\n<div class="grid">\n{inside}\n</div></section>' if inside else ""


def column(blocks: Iterable[str]) -> str:
    """Return blocks one below the other in one cell of the grid."""
    return '<div class="column">\n{}\n</div>'.format("\n".join(blocks))


def tiles(figures: Iterable[tuple[str, str, str]]) -> str:
    """Return headline figures, each a label, a value and an aside."""
    return '<dl class="tiles">\n{}\n</dl>'.format(
        "\n".join(
            f'<div><dt>{escape(label)}</dt><dd class="value">{escape(value)}</dd>'
            f'<dd class="aside">{escape(aside)}</dd></div>'
            for label, value, aside in figures
        )
    )


def card(title: str, inside: str, caption: str = "", *, wide: bool = False) -> str:
    """Return ``inside``, which is HTML, under a title and a caption."""
    said = f"<p>{escape(caption)}</p>" if caption else ""
    return f'<article class="card{" wide" if wide else ""}"><h3>{escape(title)}</h3>{said}{inside}</article>'


def plot(name: str, figure: go.Figure) -> str:
    """Return a figure as a place in the page, named ``name``, and the script that draws it there."""
    drawn: str = figure.to_html(
        config=SETTINGS,
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_height=f"{figure.layout.height}px",
    )
    return drawn


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, total: bool = False) -> str:
    """Return a table whose first column names its rows; ``total`` sets the last row apart."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = [
        f'<th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(v)}</td>" for v in row[1:]) for row in rows
    ]
    last = f'<tr class="total">{lines.pop()}</tr>' if total else ""
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    kind = ' class="numbers"' if total else ""
    return f"<table{kind}>{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>\n{body}{last}</tbody></table>"


def prose(rows: Iterable[tuple[str, str]]) -> str:
    """Return texts with their lines as they are, each beside its name."""
    lines = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>\n' for name, text in rows)
    return f'<table class="prose"><tbody>\n{lines}</tbody></table>'


def scrolled(inside: str) -> str:
    """Return ``inside``, which is HTML, so that it scrolls sideways where it is wider than its place."""
    return f'<div class="scroll">{inside}</div>'


def bars(values: Sequence[tuple[str, float, str]]) -> str:
    """Return labelled bars to one scale, each a label, a length and the text that stands for it."""
    longest = max(length for _, length, _ in values) or 1
    return "".join(
        f'<div class="bar"><span>{escape(label)}</span><span>{escape(text)}</span>'
        f'<div style="width: {100 * length / longest:.2f}%"></div></div>'
        for label, length, text in values
    )


def listing(title: str, text: str) -> str:
    """Return a text that opens on a click, as it is."""
    return f'<details class="card wide"><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>'
