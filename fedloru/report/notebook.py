"""The rounds of a run as a table in a notebook, which is updated while the run trains."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fedloru.report import units

ROWS = 10
"""The number of rounds in the table: the last ones."""
PAUSE = 0.5
"""The minimum number of seconds between two updates."""


def is_notebook() -> bool:
    """Return whether the code runs in a kernel of Jupyter, which can show tables."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


class Display:
    """A place in the output of the current cell of a notebook, for an object that has an HTML form."""

    def __init__(self) -> None:
        self._shown, self._handle = -float("inf"), None

    def show(self, value: Any, *, now: bool = False) -> None:
        """Show ``value``, or nothing if something was shown less than ``PAUSE`` seconds ago, unless ``now``."""
        if not now and time.monotonic() - self._shown < PAUSE:
            return
        self._shown = time.monotonic()
        if self._handle is None:
            self._handle = sys.modules["IPython"].display.display(value, display_id=True)
        else:
            self._handle.update(value)


def table(title: str, rows: Sequence[Mapping[str, Any]], rounds: int) -> str:
    """Return the last of ``rows``, of a run of ``rounds`` rounds, as HTML: losses, scores, MB of 10⁶ bytes, seconds."""
    last = rows[-ROWS:]
    cells = [dict(_cells(row)) for row in last]
    names = list(dict.fromkeys(name for row in cells for name in row))
    head = _line("th", names)
    body = "".join(_line("td", [row.get(name, "") for name in names]) for row in cells)
    done = int(rows[-1]["round"]) if rows else 0
    bar = f'<progress value="{done}" max="{max(rounds, 1)}"></progress>'
    return f"<p>{escape(title)}</p><p>{bar}</p><table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _line(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _cells(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "round", f"{row['round']:,}"
    yield "train loss", units.decimal(row.get("train_loss"))
    for name, value in row.items():
        if name.startswith("test_") and isinstance(value, int | float):
            yield name.replace("_", " "), units.decimal(value)
    yield "up", units.megabytes(row["up_bytes_total"])
    yield "down", units.megabytes(row["down_bytes_total"])
    yield "time", units.duration(row.get("seconds"))
