"""What an engine is built from, and what is built."""

from __future__ import annotations

from typing import NamedTuple

from fedloru.data import Examples
from fedloru.engine.fused.fold import LayerPath
from fedloru.engine.task import Engine
from fedloru.method import Method, State
from fedloru.net import Net
from fedloru.recipe import Recipe


class Setup(NamedTuple):
    """The arguments of an engine.

    ``chunk`` is the number of clients trained at once (None: as many as fit), ``workers`` the number of processes
    (None: this one, or with Ray as many as there are CPUs).
    """

    net: Net
    method: Method
    state: State
    data: Examples
    recipe: Recipe
    chunk: int | None = None
    path: LayerPath = "auto"
    workers: int | None = None


class Chosen(NamedTuple):
    """An engine, its name, the reason for the choice, and the number of clients that it trains at once.

    ``workers`` is the number of parts of a cohort, each trained in another process (None: trained in this process).
    """

    run: Engine
    name: str
    reason: str
    clients: int = 1
    workers: int | None = None
