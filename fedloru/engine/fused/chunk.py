"""Local training of one chunk of clients, all of them in every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.client import Job, Trained, check_training, local_schedule
from fedloru.data import Examples, fetch
from fedloru.dropout import ClientDropout, generators
from fedloru.engine.fused.fold import Forward
from fedloru.engine.fused.optimizer import Optimizer
from fedloru.engine.fused.stack import client, first, stack
from fedloru.method import Down, Method
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.tree import Params


class Batches(NamedTuple):
    """The batches of C clients: ``rows`` (C, S, b) with padding, ``counts`` (C, S) valid rows, 0 past the end."""

    rows: Tensor
    counts: Tensor
    shifts: Tensor | None
    flips: Tensor | None

    @property
    def steps(self) -> list[int]:
        """The number of local steps of each client."""
        return [int(n) for n in (self.counts > 0).sum(1)]


def batches(jobs: Sequence[Job], recipe: Recipe, seed: int, round: int) -> Batches:
    """Return the batches of ``jobs``, the very ones that each client alone would draw."""
    plans = [local_schedule(job, recipe, seed, round) for job in jobs]
    shape = (max(p.rows.shape[0] for p in plans), max(p.rows.shape[1] for p in plans))
    rows = torch.stack([_pad(plan.rows, shape, int(plan.rows[0, 0])) for plan in plans])
    counts = torch.stack([_pad(plan.counts, shape[:1], 0) for plan in plans])
    shifts = [_pad(plan.shifts, (*shape, 2), 0) for plan in plans if plan.shifts is not None]
    flips = [_pad(plan.flips, shape, 0) for plan in plans if plan.flips is not None]
    return Batches(rows, counts, torch.stack(shifts) if shifts else None, torch.stack(flips) if flips else None)


def _pad(values: Tensor, shape: Sequence[int], fill: int) -> Tensor:
    padded = values.new_full(tuple(shape), fill)
    padded[tuple(slice(n) for n in values.shape)] = values
    return padded


def train_chunk(
    net: Net,
    method: Method,
    forward: Forward,
    base: Params,
    down: Down,
    jobs: Sequence[Job],
    data: Examples,
    recipe: Recipe,
    *,
    seed: int,
    round: int,
) -> list[Trained]:
    """Train ``jobs``, sorted by falling number of steps, together; the results are in the same order."""
    plan = batches(jobs, recipe, seed, round)
    starts = [method.begin(net, down, job.own, job.profile) for job in jobs]
    state = stack(starts)
    values, statistics = tree.omit(state, net.buffers), tree.select(state, net.buffers.keys() & state.keys())
    optimizer = Optimizer(recipe, values)
    device = next(iter(values.values())).device
    draws = generators(seed, round, [job.client for job in jobs], device)
    history = torch.zeros(plan.counts.shape, dtype=torch.float64 if device.type != "mps" else torch.float32)
    steps = plan.steps
    for step in range(plan.counts.shape[1]):
        m = sum(n > step for n in steps)
        leaves = {key: value.detach().requires_grad_() for key, value in first(values, m).items()}
        each = _losses(net, method, forward, leaves, statistics, base, down, plan, data, recipe, step, m, draws)
        history[:m, step] = each.detach()
        total = each.sum()
        if method.penalty is not None:
            total = total + _penalties(net, method, leaves | first(statistics, m), down, jobs[:m]).sum()
        optimizer.step(_gradients(total, leaves), step + 1)
    return [
        _finish(net, method, down, job, client(state, c), history[c], plan.counts[c], recipe, round)
        for c, job in enumerate(jobs)
    ]


def _losses(
    net: Net,
    method: Method,
    forward: Forward,
    leaves: Params,
    statistics: Params,
    base: Params,
    down: Down,
    plan: Batches,
    data: Examples,
    recipe: Recipe,
    step: int,
    m: int,
    draws: Sequence[torch.Generator],
) -> Tensor:
    """Return the mean loss of each client on its batch of this step, (m,)."""
    shifts = None if plan.shifts is None else plan.shifts[:m, step].flatten(0, 1)
    flips = None if plan.flips is None else plan.flips[:m, step].flatten()
    batch = fetch(data, plan.rows[:m, step].flatten(), shifts, flips, recipe.crop)
    counts = plan.counts[:m, step]
    width = plan.rows.shape[2]
    mask = None
    if bool((counts < width).any()):
        mask = (torch.arange(width) < counts[:, None]).to(leaves[next(iter(leaves))].device)
    train = leaves | first(statistics, m)
    if method.expand is not None:
        expand = method.expand
        train = torch.func.vmap(lambda one: expand(net, one, down))(train)
    with ClientDropout(draws[:m], None if mask is None else counts.tolist(), width):
        each = forward(train, base, batch, m, mask).view(m, width)
    if mask is None:
        return each.mean(1)
    return torch.where(mask, each, 0).sum(1) / counts.to(each)


def _penalties(net: Net, method: Method, train: Params, down: Down, jobs: Sequence[Job]) -> Tensor:
    """Return the penalty of each client, (m,); one by one where not all of them keep the same."""
    penalty = method.penalty
    assert penalty is not None
    kept = [{key: value.shape for key, value in job.own.items()} for job in jobs]
    if any(shapes != kept[0] for shapes in kept):
        return torch.stack([penalty(net, client(train, c), down, job.own) for c, job in enumerate(jobs)])
    own = stack([job.own for job in jobs])
    return torch.func.vmap(lambda one, kept: penalty(net, one, down, kept))(train, own)


def _gradients(loss: Tensor, leaves: Params) -> Params:
    """Return the gradients of ``loss``, in memory of their own; that of a parameter which took no part is 0."""
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    # Autograd may hand out one tensor for two parameters, as for u + v, or an expanded one, as for a sum.
    holders = Counter(g.untyped_storage().data_ptr() for g in found)
    alone = [holders[g.untyped_storage().data_ptr()] == 1 and 0 not in g.stride() for g in found]
    return {key: g if own else g.clone() for key, g, own in zip(leaves, found, alone, strict=True)}


def _finish(
    net: Net,
    method: Method,
    down: Down,
    job: Job,
    trained: Params,
    history: Tensor,
    counts: Tensor,
    recipe: Recipe,
    round: int,
) -> Trained:
    steps = int((counts > 0).sum())
    loss = check_training(history[:steps], counts[:steps], trained.values(), job.client, round, recipe.lr)
    ordered = {key: trained[key] for key in method.begin(net, down, job.own, job.profile)}
    up, own = method.up(net, ordered, down, job.own, steps)
    return Trained(up, own, loss)
