"""The fused engine: the clients of a round, chunk by chunk, in one batch.

W is shared, so the dense part of the forward and backward pass of all clients is one large product that needs no
gradient for W; only the low-rank parts are per client. The numbers are the sequential engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fedloru import tree
from fedloru.client import Job
from fedloru.data import Examples
from fedloru.engine.fused.chunk import train_chunk
from fedloru.engine.fused.fold import Forward, Path, fold, vmapped
from fedloru.engine.fused.probe import probe
from fedloru.engine.task import Collector, Engine, Outcome, Task, sessions
from fedloru.evaluate import activation_bytes, room, shared_model
from fedloru.method import Method, State
from fedloru.net import Net
from fedloru.recipe import Recipe

CPU_BUDGET = 32 * 2**20
"""Bytes that a chunk may keep busy on a CPU: what stays near the cores, about the size of a cache."""


class Fused(NamedTuple):
    """A forward pass that the probe has approved: ``fold`` or ``vmap``, and why not the one before it."""

    forward: Forward
    how: str
    reason: str


def approve(net: Net, method: Method, state: State, data: Examples, path: Path) -> Fused | str:
    """Return the first fused forward pass that agrees with the plain one, or why there is none."""
    stacked = forward_keys(net, method, state)
    refusals: list[str] = []
    for how in ("fold", "vmap"):
        candidate = fold(net, frozenset(stacked), path) if how == "fold" else vmapped(net)
        problem = probe(net, candidate, stacked, state.base, data)
        if problem is None:
            return Fused(candidate, how, "; ".join(refusals))
        refusals.append(f"{how} does not serve this model ({problem})")
    return "; ".join(refusals)


def forward_keys(net: Net, method: Method, state: State) -> list[str]:
    """Return the keys of the forward pass that differ between clients."""
    down = method.down(net, state, ())
    begun = method.begin(net, down, {}, ())
    return list(begun if method.expand is None else method.expand(net, begun, down))


def fused(net: Net, method: Method, data: Examples, forward: Forward, chunk: int) -> Engine:
    """Return the engine that trains ``chunk`` clients at a time by ``forward``."""

    def run(task: Task) -> Outcome:
        collector = Collector(net, method, task)
        for session, jobs in sessions(net, method, data, task):
            for part in chunks(jobs, chunk, task.recipe):
                trained = zip(part, train_chunk(session, forward, part), strict=True)
                in_order = sorted(trained, key=lambda each: each[0].client)
                collector.add(session.down, *zip(*in_order, strict=True))
        return collector.outcome()

    return run


def chunks(jobs: Sequence[Job], size: int, recipe: Recipe) -> list[list[Job]]:
    """Cut ``jobs`` into even chunks of at most ``size``, in the order of falling numbers of local steps."""
    ordered = sorted(jobs, key=lambda job: (-local_steps(len(job.rows), recipe), job.client))
    even = -(-len(ordered) // -(-len(ordered) // size))
    return [ordered[start : start + even] for start in range(0, len(ordered), even)]


def local_steps(examples: int, recipe: Recipe) -> int:
    """Return how many steps a client with so many examples takes in a round."""
    if recipe.steps is not None:
        return recipe.steps
    return recipe.epochs * -(-examples // recipe.batch_size)


def chunk_size(net: Net, method: Method, state: State, data: Examples, recipe: Recipe) -> int:
    """Return how many clients come nearest to the budget: a rule, not a timing, so that runs repeat.

    A client keeps its activations busy, of each trained parameter the value, the gradient and the moments, and of
    what a method expands these to, the value and the gradient.
    """
    budget = room(next(iter(data.values())).device, CPU_BUDGET)
    tensors = shared_model(net, method, state)
    down = method.down(net, state, ())
    begun = method.begin(net, down, {}, ())
    copies = 4 if recipe.optimizer != "sgd" else 3 if recipe.momentum else 2
    held = copies * tree.nbytes(begun)
    if method.expand is not None:
        held += 2 * tree.nbytes(method.expand(net, begun, down))
    return max(1, round(budget / (recipe.batch_size * activation_bytes(net, tensors, data) + held)))
