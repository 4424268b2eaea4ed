"""The fused engine: trains the clients of a round chunk by chunk, each chunk in one batch.

W is shared, so the dense part of the forward and backward pass of all clients is one large product without a gradient
for W; only the low-rank parts are computed per client. The results equal those of the sequential engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from fedloru import own_optimizer, tree
from fedloru.data import Examples, batches_per_epoch, by_length
from fedloru.engine.fused.chunk import train_chunk, trains_by_products
from fedloru.engine.fused.fold import Forward, LayerPath, fold, vmapped
from fedloru.engine.fused.gradients import largest_rank
from fedloru.engine.fused.probe import probe
from fedloru.engine.task import Collector, Engine, Outcome, Task, sessions
from fedloru.evaluate import naming_examples, shared_model
from fedloru.footprint import activation_bytes, room
from fedloru.lowrank import LowRankLinear
from fedloru.method import Method, State
from fedloru.net import Net, prefers_channels_last
from fedloru.recipe import Recipe
from fedloru.session import Job
from fedloru.tree import Params

CPU_BUDGET = 32 * 2**20
"""Budget in bytes for the working set of a chunk on a CPU, about the size of a cache."""


class Fused(NamedTuple):
    """A forward pass that has passed the probe; ``how`` is "fold" or "vmap", ``reason`` why "fold" was rejected."""

    forward: Forward
    how: str
    reason: str


def approve(
    net: Net, method: Method, state: State, data: Examples, recipe: Recipe, path: LayerPath = "auto"
) -> Fused | str:
    """Return the first fused forward pass that agrees with the plain one, or the reason why none does."""
    if unsupported := own_optimizer.problem(recipe):
        return unsupported
    stacked = forward_tensors(net, method, state)

    def problem(candidate: Forward, **settings: Any) -> str | None:
        return probe(net, candidate, stacked, state.base, data, recipe.precision, **settings)

    def approved(candidate: Forward, how: str, reason: str = "") -> Fused:
        """Keep what the probe has measured, or remove it if the model cannot be trained with local weights."""
        rows = dict(candidate.rows)
        is_local = bool(rows) and trains_by_products(method, recipe) and problem(candidate, local=rows) is None
        return Fused(candidate._replace(rows=rows if is_local else {}), how, reason)

    if prefers_channels_last(net, next(iter(data.values())).device, recipe.precision):
        candidate = fold(net, frozenset(stacked), path, channels_last=True)
        # Only in the model's own dtypes do convolutions keep the order, which a view of their output may not support.
        if not any(problem(candidate, wide=wide) for wide in (False, True)):
            return approved(candidate, "fold")
    rejections: list[str] = []
    for how in ("fold", "vmap"):
        candidate = fold(net, frozenset(stacked), path) if how == "fold" else vmapped(net)
        if (found := problem(candidate)) is None:
            return approved(candidate, how, "; ".join(rejections))
        rejections.append(f"{how} does not support this model ({found})")
    return "; ".join(rejections)


def forward_tensors(net: Net, method: Method, state: State) -> Params:
    """Return the forward tensors that differ between clients, as a client starts with them."""
    down = method.down(net, state, ())
    start = method.begin(net, down, {}, ())
    return start if method.expand is None else method.expand(net, start, down)


def fused(net: Net, method: Method, data: Examples, forward: Forward, chunk: int) -> Engine:
    """Return an engine that trains ``chunk`` clients at a time with ``forward``."""

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
    """Split ``jobs`` into even chunks of at most ``size``, sorted by descending number of local steps."""
    ordered = sorted(jobs, key=lambda job: (-local_steps(len(job.rows), recipe), job.client))
    even = -(-len(ordered) // -(-len(ordered) // size))
    return [ordered[start : start + even] for start in range(0, len(ordered), even)]


def local_steps(examples: int, recipe: Recipe) -> int:
    """Return the number of steps that a client with ``examples`` examples takes in a round."""
    if recipe.steps is not None:
        return recipe.steps
    return recipe.epochs * batches_per_epoch(examples, recipe.batch_size, recipe.drop_last)


def chunk_size(net: Net, method: Method, state: State, data: Examples, recipe: Recipe) -> int:
    """Return the number of clients whose working set is closest to the memory budget.

    This is a rule and not a timing, so that runs are reproducible. The working set of a client consists of its
    activations, the value, gradient and moments of each trained parameter, and the value and gradient of each tensor
    that the method expands these to. Local weights count an eighth, because steps do not form them.
    """
    budget = room(next(iter(data.values())).device, CPU_BUDGET)
    tensors = shared_model(net, method, state)
    down = method.down(net, state, ())
    start = method.begin(net, down, {}, ())
    local = {key: start[key] for key in _local_keys(net, method, recipe, data) if key in start}
    copies = 4 if recipe.optimizer != "sgd" else 3 if recipe.momentum else 2
    tree_bytes = copies * tree.nbytes(tree.omit(start, local)) + tree.nbytes(local) // 8
    if method.expand is not None:
        tree_bytes += 2 * tree.nbytes(method.expand(net, start, down))
    with naming_examples("training", data, by_length(data)[:1]):
        activations = activation_bytes(net, tensors, data)
    return max(1, round(budget / (recipe.batch_size * activations + tree_bytes)))


def _local_keys(net: Net, method: Method, recipe: Recipe, data: Examples) -> list[str]:
    """Return the weights that a chunk trains as local weights, if a layer maps one row per token or example."""
    if not trains_by_products(method, recipe):
        return []
    rows = recipe.batch_size * (int(data["length"].max()) if "length" in data else 1)
    layers = {
        f"{name}.weight".lstrip("."): layer
        for name, layer in net.model.named_modules()
        if type(layer) in (nn.Linear, LowRankLinear)
    }
    return [key for key, layer in layers.items() if rows <= largest_rank(layer.out_features, layer.in_features)]
