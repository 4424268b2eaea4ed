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


def problem(page: Path) -> str | None:
    """Return why the table cannot be put into ``page``, or None if it can."""
    if not page.is_file():
        return f"there is no page {page}"
    if [line for line in page.read_text(encoding="utf-8").splitlines() if line in (BEGIN, END)] != [BEGIN, END]:
        return f"{page} needs one line {BEGIN} and, after it, one line {END}, between which the table is put"
    return None


def put(page: Path, table: str) -> None:
    """Replace what is between the markers in ``page`` by ``table``."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")
