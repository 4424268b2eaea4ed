"""Local training of one chunk of clients, all of them in every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.client import Job, Session, Trained, finish, local_schedule
from fedloru.data import Examples, fetch
from fedloru.dropout import ClientDropout, generators
from fedloru.engine.fused.fold import Forward
from fedloru.engine.fused.optimizer import Optimizer
from fedloru.engine.fused.stack import client, first, stack
from fedloru.method import Phase
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


def batches(jobs: Sequence[Job], recipe: Recipe, seed: int, round: int, phase: int = 0) -> Batches:
    """Return the batches of ``jobs``, the very ones that each client alone would draw."""
    plans = [local_schedule(job, recipe, seed, round, phase) for job in jobs]
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


def train_chunk(session: Session, forward: Forward, jobs: Sequence[Job]) -> list[Trained]:
    """Train ``jobs``, sorted by falling number of steps, together; the results are in the same order."""
    state = stack([session.begin(job) for job in jobs])
    clients = [job.client for job in jobs]
    draws = generators(session.seed, session.round, clients, session.device)
    histories, counts = [], []
    for number, phase in enumerate(session.phases(client(state, 0))):
        plan = batches(jobs, session.recipe_of(phase), session.seed, session.round, number)
        histories.append(_train_phase(session, forward, jobs, state, phase, plan, draws))
        counts.append(plan.counts)
    return [
        finish(session, job, client(state, c), *_own_steps([h[c] for h in histories], [n[c] for n in counts]))
        for c, job in enumerate(jobs)
    ]


def _own_steps(histories: Sequence[Tensor], counts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the losses and counts of the steps that one client took, of all phases."""
    history, count = torch.cat(list(histories)), torch.cat(list(counts))
    return history[count > 0], count[count > 0]


def _train_phase(
    session: Session,
    forward: Forward,
    jobs: Sequence[Job],
    state: Params,
    phase: Phase,
    plan: Batches,
    draws: Sequence[torch.Generator],
) -> Tensor:
    """Train the keys of one phase in place, and return the mean loss of each client's steps, (C, S)."""
    values = {key: value for key, value in state.items() if key in phase.keys}
    optimizer = Optimizer(session.recipe, values)
    wide = torch.float32 if session.device.type == "mps" else torch.float64
    history = torch.zeros(plan.counts.shape, dtype=wide)
    steps = plan.steps
    for step in range(plan.counts.shape[1]):
        m = sum(n > step for n in steps)
        leaves = {key: value.detach().requires_grad_() for key, value in first(values, m).items()}
        train = first(state, m) | leaves
        batch = _batch(session, plan, step, m)
        each = _losses(session, forward, train, batch, plan.counts[:m, step], plan.rows.shape[2], draws[:m])
        history[:m, step] = each.detach()
        total = each.sum()
        if session.method.penalty is not None:
            total = total + _penalties(session, train, jobs[:m]).sum()
        optimizer.step(_gradients(total, leaves), step + 1)
    return history


def _batch(session: Session, plan: Batches, step: int, m: int) -> Examples:
    """Return the examples of one step of the first m clients, padding included, (m·b, …)."""
    shifts = None if plan.shifts is None else plan.shifts[:m, step].flatten(0, 1)
    flips = None if plan.flips is None else plan.flips[:m, step].flatten()
    return fetch(session.data, plan.rows[:m, step].flatten(), shifts, flips, session.recipe.crop)


def _losses(
    session: Session,
    forward: Forward,
    train: Params,
    batch: Examples,
    counts: Tensor,
    width: int,
    draws: Sequence[torch.Generator],
) -> Tensor:
    """Return the mean loss of each client on its ``counts`` (m,) valid rows of ``width``, (m,)."""
    m = len(counts)
    mask = None
    if bool((counts < width).any()):
        mask = (torch.arange(width) < counts[:, None]).to(session.device)
    if (expand := session.method.expand) is not None:
        train = torch.func.vmap(lambda one: expand(session.net, one, session.down))(train)
    with ClientDropout(draws, None if mask is None else counts.tolist(), width):
        each = forward(train, session.base, batch, m, mask).view(m, width)
    if mask is None:
        return each.mean(1)
    return torch.where(mask, each, 0).sum(1) / counts.to(each)


def _penalties(session: Session, train: Params, jobs: Sequence[Job]) -> Tensor:
    """Return the penalty of each client, (m,); one by one where not all of them keep the same."""
    net, down, penalty = session.net, session.down, session.method.penalty
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
