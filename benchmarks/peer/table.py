"""The table of ``peers.py`` in Markdown, as the README has it."""

from __future__ import annotations

from typing import Any

MARKER = "peers"
"""The name of the comments between which the README has the table."""


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
