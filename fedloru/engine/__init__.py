"""Engines train a cohort; the loop around them makes a run.

``choose`` finds an engine by name. ``auto`` takes the fused engine wherever its probe approves the model, with chunks
sized by a rule and never by a timing: the same run on the same machine always takes the same engine. Where one
client fills the machine by itself, chunks hold one client, and the fused engine still wins by evaluating each
low-rank layer on its cheaper path (``benchmarks/engines.py``).
"""

from __future__ import annotations

import logging
from typing import Literal, NamedTuple

from fedloru.data import Examples
from fedloru.engine.fused import Fused, approve, chunk_size, fused
from fedloru.engine.fused.fold import Path
from fedloru.engine.sequential import sequential
from fedloru.engine.task import Engine, Outcome, Task
from fedloru.errors import ModelError
from fedloru.method import Method, State
from fedloru.net import Net
from fedloru.recipe import Recipe

log = logging.getLogger("fedloru")

EngineName = Literal["auto", "sequential", "fused"]


class Chosen(NamedTuple):
    """An engine, what it is called in the run's record, and why it was taken."""

    run: Engine
    name: str
    reason: str


def choose(
    name: EngineName,
    net: Net,
    method: Method,
    state: State,
    data: Examples,
    recipe: Recipe,
    *,
    chunk: int | None = None,
    path: Path = "auto",
) -> Chosen:
    """Return the engine called ``name``; ``auto`` falls back to the sequential one with one logged sentence.

    ``chunk`` is the number of clients trained at once (None: as many as fit the budget), ``path`` how low-rank
    layers are evaluated.

    Raises:
        ModelError: ``fused`` was asked for, and the model does not fuse.
    """
    slow = sequential(net, method, data)
    if name == "sequential":
        return Chosen(slow, "sequential", "asked for")
    size = chunk or chunk_size(net, method, state, data, recipe)
    found = approve(net, method, state, data, path)
    if isinstance(found, Fused):
        reason = f"{size} clients at a time by {found.how}" + (f"; {found.reason}" if found.reason else "")
        return Chosen(fused(net, method, data, found.forward, size), "fused", reason)
    if name == "fused":
        raise ModelError(f"the fused engine cannot run this model: {found}. Use engine 'sequential', or 'auto'")
    log.warning("clients are trained one after another: %s", found)
    return Chosen(slow, "sequential", found)


__all__ = ["Chosen", "Engine", "EngineName", "Outcome", "Task", "choose"]
