"""Live progress of a run: a panel on a terminal, plain lines of text elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fedloru.report import units, wording
from fedloru.report.headline import headline
from fedloru.schema import metric_names

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

BLOCKS = "▁▂▃▄▅▆▇█"
SPARKS = 40
"""The maximum number of recent evaluations in the sparkline."""


class Live:
    """Context manager that shows the progress of a run of ``rounds`` rounds, ``done`` of them already completed.

    If the console is not a terminal, prints one line for every ``every``-th round and for the last round. ``status``
    returns what the run is doing now, which is shown on a terminal.
    """

    def __init__(
        self,
        title: str,
        rounds: int,
        done: int = 0,
        facts: Sequence[tuple[str, str]] = (),
        console: Console | None = None,
        every: int = 1,
        status: Callable[[], str] = lambda: "",
    ) -> None:
        from rich.console import Console
        from rich.live import Live as Display

        self.title, self.rounds, self.done, self.every, self.status = title, rounds, done, every, status
        self.facts = "  ".join(f"{name} {value}" for name, value in facts)
        self.rows: list[Mapping[str, Any]] = []
        self.began = time.monotonic()
        self._console = console or Console()
        self._plain = not self._console.is_terminal or self._console.is_dumb_terminal
        self._display = Display(get_renderable=self._panel, console=self._console, refresh_per_second=2)

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        if self._plain:
            self._print("  ".join(part for part in (self.title, self.facts) if part))
        else:
            self._display.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._display.stop()  # restores the cursor, also after an exception or Ctrl-C

    def update(self, row: Mapping[str, Any]) -> None:
        """Show the results of a round; ``row`` is its line of ``rounds.jsonl``."""
        self.rows.append(row)
        if not self._plain:
            self._display.refresh()
        elif row["round"] % self.every == 0 or row["round"] == self.rounds:
            self._print(self._line(row))

    @property
    def left(self) -> float | None:
        """The estimated remaining seconds, from the mean duration of the rounds shown; None before the first round."""
        if not self.rows:
            return None
        pace: float = sum(row["seconds"] for row in self.rows) / len(self.rows)
        return pace * (self.rounds - self._done)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _line(self, row: Mapping[str, Any]) -> str:
        """Return the results of a round as one line; MB are totals up to this round."""
        parts = [
            f"round {row['round']:>{len(str(self.rounds))}}/{self.rounds}",
            f"loss {units.decimal(row['train_loss'])}",
        ]
        parts += [f"acc {units.decimal(row['test_accuracy'])}"] if row["test_accuracy"] is not None else []
        parts += [f"ppl {units.decimal(row['test_perplexity'])}"] if "test_perplexity" in row else []
        parts += [f"{name} {wording.value(row[f'test_{name}'])}" for name in metric_names([row])]
        parts += [f"match {units.decimal(row['exact_match'])}"] if "exact_match" in row else []
        parts += [f"{replies(row)} replied"] if row.get("federation") else []
        parts += [f"up {units.megabytes(row['up_bytes_total'])}", f"down {units.megabytes(row['down_bytes_total'])}"]
        parts += [f"merged v{row['version']}"] if row["merged"] else []
        return "  ".join([*parts, units.duration(row["seconds"]), f"ETA {units.duration(self.left)}"])

    def _panel(self) -> RenderableType:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        label, format, values = self._score()
        grid = Table.grid(expand=True)
        grid.add_row(Text(self.facts, style="dim"))
        grid.add_row(ProgressBar(total=max(self.rounds, 1), completed=self._done, complete_style="blue"))
        grid.add_row(self._numbers((label, format(values[-1] if values else None))))
        if status := self.status():
            grid.add_row(Text(status, style="dim"))
        grid.add_row(Text(sparkline(values[-SPARKS:]), style="blue"))
        title, elapsed = Text(self.title, style="bold"), units.duration(time.monotonic() - self.began)
        return Panel(
            grid, title=title, title_align="left", subtitle=elapsed, subtitle_align="right", border_style="blue"
        )

    def _score(self) -> tuple[str, Callable[[float | None], str], list[float]]:
        """Return the name, the format and the values of the score in the sparkline: the first of the metrics.

        It is the accuracy, unless evaluations have none, as in a regression.
        """
        scored = [row for row in self.rows if row["test_loss"] is not None]
        names = metric_names(scored)
        if not names or any(row["test_accuracy"] is not None for row in scored):
            return "accuracy", units.percent, _present(scored, "accuracy")
        return wording.metric(names[0]), wording.value, _present(scored, names[0])

    def _numbers(self, score: tuple[str, str]) -> Table:
        from rich.table import Table
        from rich.text import Text

        row = self.rows[-1] if self.rows else {}
        cells = [
            ("round", f"{self._done}/{self.rounds}"),
            ("loss", units.decimal(row.get("train_loss"))),
            score,
            ("version", f"{row.get('version', units.DASH)}{', merged' if row.get('merged') else ''}"),
            ("per round", units.duration(row.get("seconds"))),
            ("up", units.megabytes(row.get("up_bytes_total"))),
            ("down", units.megabytes(row.get("down_bytes_total"))),
            ("ETA", units.duration(self.left)),
        ]
        matches = [row["exact_match"] for row in self.rows if "exact_match" in row]
        cells += [("replies", replies(row))] if row.get("federation") else []
        cells += [("exact match", units.percent(matches[-1]))] if matches else []
        texts = [Text.assemble((f"{label} ", "dim"), (value, "bold")) for label, value in cells]
        table = Table.grid(padding=(0, 3, 0, 0))
        for start in range(0, len(texts), 4):
            table.add_row(*texts[start : start + 4])
        return table

    @property
    def _done(self) -> int:
        return int(self.rows[-1]["round"]) if self.rows else self.done


def _present(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [value for row in rows if (value := row.get(f"test_{name}")) is not None]


def replies(row: Mapping[str, Any]) -> str:
    """Return how many clients of a federation replied in a round, of how many that were asked."""
    return f"{len(row['federation']['clients']):,} of {row['federation']['asked']:,}"


def sparkline(values: Sequence[float]) -> str:
    """Return a line of block characters whose heights follow ``values``, scaled from minimum to maximum."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    step = (high - low) / (len(BLOCKS) - 1) or 1.0
    return "".join(BLOCKS[round((value - low) / step)] for value in values)


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Return the summary of a run as a table for the terminal: accuracy, MB of 10⁶ bytes, time, memory."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="dim")
    table.add_column(style="bold", justify="right")
    table.add_column(style="dim")
    for entry in headline(summary):
        table.add_row(*entry)
    return table
