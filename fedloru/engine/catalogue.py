"""The engines by name, and the choice of an engine for a model.

``auto`` selects the fused engine if its probe supports the model. The size of chunks follows from a rule and not from
timings, so that the same run on the same machine always uses the same engine. If one client fills the machine, chunks
contain one client. On small models the fused engine is still faster then, because it evaluates each low-rank layer on
the cheaper path (``benchmarks/engines.py``); on large ones the set-up and the copies of the probe cost more than that
saves, so ``auto`` selects the sequential engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import wraps

import torch

from fedloru import tree
from fedloru.data import Examples
from fedloru.engine.fused import Fused, approve, chunk_size, fused
from fedloru.engine.fused.fold import LayerPath
from fedloru.engine.fused.probe import LARGE
from fedloru.engine.local import Pool as LocalPool
from fedloru.engine.parts import distribute
from fedloru.engine.ray import Pool as RayPool
from fedloru.engine.sequential import sequential
from fedloru.engine.setup import Chosen, Setup
from fedloru.errors import ConfigError, ModelError
from fedloru.method import Method, State
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.settings import Table, calling, short

log = logging.getLogger("fedloru")


Build = Callable[[Setup], Chosen]


def build_auto(setup: Setup) -> Chosen:
    """Return the fused engine, or the sequential engine if that costs less or is the only one that fits the model.

    If the fused engine does not support the model, the reason is logged as a warning.
    """
    size = _clients_at_once(setup)
    if size == 1 and (setup.chunk == 1 or tree.size(setup.state.base) > LARGE):
        return build_sequential(setup)._replace(reason="a chunk would hold one client, so there is nothing to fuse")
    found = _build_fused(setup._replace(chunk=size))
    if isinstance(found, Chosen):
        return found
    log.warning("clients are trained one after another: %s", found)
    return build_sequential(setup)._replace(reason=found)


def build_sequential(setup: Setup) -> Chosen:
    """Return the engine that trains one client after another."""
    return Chosen(sequential(setup.net, setup.method, setup.data), "sequential", "requested")


def build_fused(setup: Setup) -> Chosen:
    """Return the engine that trains many clients in one batch.

    Raises:
        ModelError: the engine does not support the model.
    """
    found = _build_fused(setup)
    if isinstance(found, Chosen):
        return found
    raise ModelError(f"the fused engine cannot run this model: {found}. Use the engine 'sequential' or 'auto'")


def _clients_at_once(setup: Setup) -> int:
    return setup.chunk or chunk_size(setup.net, setup.method, setup.state, setup.data, setup.recipe)


def _build_fused(setup: Setup) -> Chosen | str:
    net, method, data = setup.net, setup.method, setup.data
    size = _clients_at_once(setup)
    found = approve(net, method, setup.state, data, setup.recipe, setup.path)
    if not isinstance(found, Fused):
        return found
    reason = f"{size} clients at a time by {found.how}" + (f"; {found.reason}" if found.reason else "")
    return Chosen(fused(net, method, data, found.forward, size), "fused", reason, size)


def build_ray(setup: Setup) -> Chosen:
    """Return the engine that trains parts of a cohort in other processes, each with the engine of ``auto``.

    Raises:
        MissingExtraError: Ray is not installed.
        FedloruError: Ray cannot be reached, or its workers cannot load the model or the method.
    """
    return distribute(setup, "ray", RayPool(setup.workers, _device(setup)), build_auto, _IN_PROCESS)


def _device(setup: Setup) -> torch.device:
    return next(iter(setup.data.values())).device


def in_processes(build: Build) -> Build:
    """Return ``build``, but if it is to have several workers, an engine that trains in as many processes.

    Each process trains with the engine that ``build`` chooses.
    """

    @wraps(build)
    def built(setup: Setup) -> Chosen:
        if setup.workers is None or setup.workers == 1:
            return build(setup)
        return distribute(setup, "", LocalPool(setup.workers, _device(setup)), build, _IN_PROCESS)

    return built


_IN_PROCESS: Mapping[str, Build] = {"sequential": build_sequential, "fused": build_fused}
ENGINES: Table[Callable[[Setup], Chosen]] = Table(
    "engine",
    {
        "auto": in_processes(build_auto),
        "sequential": in_processes(build_sequential),
        "fused": in_processes(build_fused),
        "ray": build_ray,
    },
)
"""The engines by name; a ``python:`` name refers to a function from a ``Setup`` to an ``Engine`` or a ``Chosen``."""


def choose(
    name: str,
    net: Net,
    method: Method,
    state: State,
    data: Examples,
    recipe: Recipe,
    *,
    chunk: int | None = None,
    path: LayerPath = "auto",
    workers: int | None = None,
) -> Chosen:
    """Return the engine called ``name``.

    Args:
        chunk: the number of clients that are trained at once; by default as many as fit the memory budget.
        path: the path on which low-rank layers are evaluated.
        workers: the number of processes that train; by default this one, or with ``ray`` as many as there are CPUs.

    Raises:
        ConfigError: there is no such engine, or a custom one fails or does not return an engine.
        ModelError: ``fused`` was requested, but does not support the model.
    """
    build = ENGINES.find(name)
    with calling(name, ENGINES.error):
        made = build(Setup(net, method, state, data, recipe, chunk, path, workers))
    if isinstance(made, Chosen):
        return made
    if not callable(made):
        raise ConfigError([f"it returned {type(made).__name__}, not an engine, a function of a Task"], name)
    return Chosen(made, short(name), "requested")
