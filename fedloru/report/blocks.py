"""The building blocks of a page: functions from text to HTML, which escape all text passed to them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from fedloru.report import palette, stylesheet
from fedloru.report.terms import explained, named, used

if TYPE_CHECKING:
    import plotly.graph_objects as go

HELP = (
    "Underlined words are explained: point at them, or select them with the Tab key. A click on a heading of a table "
    "sorts by its column. A click on an entry of a legend hides its line, and a double click shows it alone. Smoothing "
    "replaces each value by the mean of the values around it; the values themselves stay visible, paler. SVG and PNG "
    "save a figure as it is shown. The page docs/reading-a-page.md of the documentation explains every figure."
)

_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def document(title: str, blocks: Iterable[str], script: str) -> str:
    """Return a complete HTML page; the HTML elements ``script``, which loads plotly, and ``blocks`` are not escaped.

    The page can load nothing from the network, and run no other scripts than its own and those next to it on the disk.
    """
    body = "\n".join(blocks)
    scripts = f"<script>{stylesheet.script()}</script>\n{script}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{stylesheet.css()}</style>
{scripts}
<script type="application/json" class="dark-colors">{json.dumps(palette.DARK)}</script>
</head>
<body>
<main>
{body}
{_help(body)}
</main>
</body>
</html>
"""


def _policy(scripts: str) -> str:
    """Return a policy that forbids all connections, and all scripts but those in ``scripts`` and in local files."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in _INLINE.findall(scripts)]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src 'self' file: {allowed}"
    )


def _help(body: str) -> str:
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in used(body))
    return (
        '<section><details class="card"><summary>How to read this page</summary>'
        f"<p>{escape(HELP)}</p><dl>{terms}</dl></details></section>"
    )


def header(method: str, name: str, facts: Sequence[str], notes: Iterable[str]) -> str:
    """Return the page header: the method, the name of the run, a line of facts, and highlighted notes."""
    warnings = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    line = escape(" · ".join(facts))
    return f'<header><p class="method">{escape(method)}</p><h1>{escape(name)}</h1><p>{line}</p>{warnings}</header>'


def section(title: str, blocks: Iterable[str]) -> str:
    """Return blocks in a grid under a heading, or an empty string if there are no blocks."""
    content = "\n".join(blocks)
    return f'<section><h2>{escape(title)}</h2>\n<div class="grid">\n{content}\n</div></section>' if content else ""


def column(blocks: Iterable[str]) -> str:
    """Return blocks stacked vertically in one cell of the grid."""
    return '<div class="column">\n{}\n</div>'.format("\n".join(blocks))


def tiles(numbers: Iterable[tuple[str, str, str]]) -> str:
    """Return tiles of headline numbers, each a label, a value and a short explanation."""
    return '<dl class="tiles">\n{}\n</dl>'.format(
        "\n".join(
            f'<div><dt>{explained(label)}</dt><dd class="value">{escape(value)}</dd>'
            f'<dd class="aside">{explained(aside)}</dd></div>'
            for label, value, aside in numbers
        )
    )


def card(title: str, content: str, caption: str = "", *, wide: bool = False) -> str:
    """Return ``content``, which is HTML, under a title and a caption."""
    subtitle = paragraph(caption) if caption else ""
    return f'<article class="card{" wide" if wide else ""}"><h3>{named(title)}</h3>{subtitle}{content}</article>'


def plot(name: str, figure: go.Figure) -> str:
    """Return a figure as an HTML element with the id ``name``, which the script of the page draws."""
    drawing = str(figure.to_json()).replace("<", r"\u003c")
    return (
        f'<div class="figure" id="{escape(name)}" style="min-height: {figure.layout.height}px">'
        f'<script type="application/json">{drawing}</script>'
        "<noscript>This figure needs JavaScript.</noscript></div>"
    )


def figure(title: str, figure: go.Figure, caption: str = "", *, wide: bool = False) -> str:
    """Return a card with a figure, whose id follows from the title."""
    name = re.sub(r"\W+", "-", title.lower())  # a metric may have any name
    return card(title, plot(name, figure), caption, wide=wide)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, total: bool = False, texts: bool = False) -> str:
    """Return a table whose first column holds row headers; the script of the page makes it sortable if it has a head.

    With ``total``, the last row is styled as a total; with ``texts``, the last column is wide and holds sentences.
    """
    header_cells = "".join(f'<th scope="col">{explained(name)}</th>' for name in head)
    lines = [
        f'<th scope="row">{named(row[0])}</th>' + "".join(f"<td>{escape(v)}</td>" for v in row[1:]) for row in rows
    ]
    last = f'<tr class="total">{lines.pop()}</tr>' if total else ""
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    attribute = ' class="numbers"' if total else ' class="texts"' if texts else ""
    thead = f"<thead><tr>{header_cells}</tr></thead>" if head else ""
    return f"<table{attribute}>{thead}<tbody>\n{body}{last}</tbody></table>"


def prose(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of texts with their line breaks preserved, each next to its name."""
    lines = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>\n' for name, text in rows)
    return f'<table class="prose"><tbody>\n{lines}</tbody></table>'


def paragraph(text: str) -> str:
    """Return a sentence, with its terms explained."""
    return f"<p>{explained(text)}</p>"


def scrolled(content: str) -> str:
    """Return ``content``, which is HTML, in a container that scrolls horizontally if the content is too wide."""
    return f'<div class="scroll">{content}</div>'


def bars(values: Sequence[tuple[str, float, str]]) -> str:
    """Return labeled bars on a common scale, each given by a label, a length and the text shown for the length."""
    longest = max(length for _, length, _ in values) or 1
    return "".join(
        f'<div class="bar"><span>{escape(label)}</span><span>{escape(text)}</span>'
        f'<div style="width: {100 * length / longest:.2f}%"></div></div>'
        for label, length, text in values
    )


def listing(title: str, text: str) -> str:
    """Return preformatted text in a collapsible block."""
    return f'<details class="card wide"><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>'
