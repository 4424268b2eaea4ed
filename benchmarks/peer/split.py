"""Where the CPU time of our own rounds goes: training steps, evaluation, diagnostics, the wire, and the rest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import Any, NamedTuple

import torch

from fedloru.run.loop import Run
from peer import workloads

PARTS = {
    "training steps": ("fedloru.engine.fused.chunk:_train", "fedloru.client:_train_phase"),
    "evaluation": ("fedloru.run.record:evaluate",),
    "diagnostics": (
        "fedloru.run.diagnostics:UpdateStatistics.add",
        "fedloru.run.record:_sites",
        "fedloru.run.record:_model_diagnostics",
    ),
    "wire": (
        "fedloru.wire.channel:Channel.down",
        "fedloru.wire.channel:Channel.replies",
        "fedloru.wire.channel:Channel.sync",
    ),
}
"""The functions of each part, by module and name. What a function calls counts for its own part."""


class Stopwatch:
    """Adds up the CPU seconds of each part; while a part calls another, only the other's watch runs."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running = ["rest"]
        self._since = time.process_time()

    def switch(self) -> None:
        """Count the time since the last change for the part that is running."""
        now = time.process_time()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Count the CPU time of the context for ``part``."""
        self.switch()
        self._running.append(part)
        try:
            yield
        finally:
            self.switch()
            self._running.pop()

    def restart(self) -> None:
        """Forget all that was counted so far."""
        self.switch()
        self.seconds.clear()

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Return ``function``, whose calls count for ``part``."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.timing(part):
                return function(*args, **kwargs)

        return call


def owner(name: str) -> tuple[Any, str]:
    """Return the module or class that has the function ``name``, and the function's name in it."""
    module, path = name.split(":")
    found: Any = import_module(module)
    *classes, function = path.split(".")
    for each in classes:
        found = getattr(found, each)
    getattr(found, function)  # raises AttributeError if it has another name now
    return found, function


@contextmanager
def watched() -> Iterator[Stopwatch]:
    """Time the functions in ``PARTS`` within the context."""
    watch, before = Stopwatch(), []
    for part, names in PARTS.items():
        for name in names:
            place, function = owner(name)
            before.append((place, function, getattr(place, function)))
            setattr(place, function, watch.timed(getattr(place, function), part))
    try:
        yield watch
    finally:
        for place, function, original in before:
            setattr(place, function, original)


class Split(NamedTuple):
    """The CPU seconds of each part of a round of a workload."""

    title: str
    seconds: dict[str, float]


def measure(name: str) -> Split:
    """Return the parts of a round of a workload, on average over all rounds but the first."""
    workload = workloads.WORKLOADS[name]
    torch.set_num_threads(1)
    with watched() as watch:
        for row in Run(workloads.plan(name, workload.rounds)):
            if row["round"] == workload.warm:
                watch.restart()
        watch.switch()
    rounds = workload.rounds - workload.warm
    return Split(workload.title, {part: watch.seconds[part] / rounds for part in (*PARTS, "rest")})


def markdown(splits: Sequence[Split]) -> str:
    """Return a table of the shares of a round, one row per workload."""
    parts = (*PARTS, "rest")
    lines = ["| a round of | ms | " + " | ".join(parts) + " |", "|---" * (len(parts) + 2) + "|"]
    for title, seconds in splits:
        whole = sum(seconds.values())
        cells = [f"{100 * seconds[part] / whole:.0f} %" for part in parts]
        lines.append(f"| {title} | {1000 * whole:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
