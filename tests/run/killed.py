"""A process that is killed between two of its changes to the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """The end of a process: whatever is tried afterwards, by way of cleaning up, does nothing."""


@contextmanager
def killed_after(changes: int) -> Iterator[None]:
    """Let so many changes to the disk happen, and none after them."""
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
