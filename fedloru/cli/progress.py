"""A progress bar for ``rank`` and ``align``, measured in examples processed by the model."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Bar:
    """A context manager that shows a progress bar on stderr if it is a terminal, unless ``quiet``."""

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
        """Advance by ``examples``, and show ``said`` as the description of the current work."""
        self._bar.update(self._task, advance=examples, description=said)

    def reach(self, examples: int) -> None:
        """Set the number of processed examples, overriding the sum of the steps so far."""
        self._bar.update(self._task, completed=examples)
