"""The table of ``peers.py`` in Markdown, as the README has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- peers -->", "<!-- /peers -->"


def markdown(results: dict[str, Any]) -> str:
    """Return the results as a table: one row per driver, one column per workload."""
    columns = results["workloads"]
    titles = [results["drivers"][name] for name in results["drivers"]]
    lines = ["| | " + " | ".join(column["title"] for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, title in zip(results["drivers"], titles, strict=True):
        lines.append(f"| {title} | " + " | ".join(_cell(column["rows"].get(name)) for column in columns) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    ratio = row["ratio"]
    shown = f"{ratio:.2f}" if ratio < 9.95 else f"{ratio:.0f}"
    return f"{shown} ({100 * row['accuracy']:.0f} %)"


def put(page: Path, table: str) -> None:
    """Replace what is between the markers in ``page`` by ``table``.

    Raises:
        ValueError: the page does not have the markers.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} has no lines {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
