"""The progress of a study on the terminal, in examples that have passed through the model."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Bar:
    """A progress bar on stderr, if that is a terminal and not ``quiet``; a context manager."""

    def __init__(self, total: int, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=quiet or not console.is_terminal)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def step(self, examples: int, said: str) -> None:
        """Take note of ``examples`` more, and of what is being done."""
        self._bar.update(self._task, advance=examples, description=said)

    def reach(self, examples: int) -> None:
        """Take note that so many are behind, whatever the steps have come to."""
        self._bar.update(self._task, completed=examples)
