"""Simulate a process that is killed between two of its changes to the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """The simulated end of a process; changes made afterwards, such as cleanup, have no effect."""


@contextmanager
def killed_after(changes: int) -> Iterator[None]:
    """Allow the first ``changes`` changes to the disk, and raise ``Killed`` at the next one."""
    done = 0

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def change(self: Path, *args: Any, **options: Any) -> Any:
            nonlocal done
            if act.__name__ == "open" and "r" in options.get("mode", args[0] if args else "r"):
                return act(self, *args, **options)
            done += 1
            if done <= changes:
                return act(self, *args, **options)
            if act.__name__ != "unlink" or done == changes + 1:
                raise Killed
            return None

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "open", "replace", "unlink"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        yield
