"""Local training of one chunk of clients, with all clients in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.client import all_finite, finish, local_schedule, on_device, read, train
from fedloru.data import Examples, Schedule, fetch
from fedloru.dropout import Masks
from fedloru.engine.fused.fold import Forward
from fedloru.engine.fused.gradients import Sinks, collected, largest_rank
from fedloru.engine.fused.leaf import Mask
from fedloru.engine.fused.local_weight import LocalWeight
from fedloru.engine.fused.optimizer import Optimizer
from fedloru.engine.fused.stack import client, first, stack, unstack
from fedloru.errors import TrainingError, naming
from fedloru.method import Method, Phase
from fedloru.recipe import Recipe
from fedloru.session import Job, Session, Trained
from fedloru.tree import Params


class _Chunk(NamedTuple):
    """A chunk in training: ``state`` (C, …) and the ``local`` weights are trained and sent."""

    session: Session
    forward: Forward
    jobs: Sequence[Job]
    state: Params
    local: dict[str, LocalWeight]
    masks: Masks


def train_chunk(session: Session, forward: Forward, jobs: Sequence[Job]) -> list[Trained]:
    """Train ``jobs``, sorted by descending number of steps, in one batch; results are in the same order.

    Raises:
        TrainingError: a local step fails, or a loss or a trained tensor is not finite. The message names the client
            and the round.
    """
    try:
        state, history, counts = session.with_masks(jobs, lambda masks: _train(session, forward, jobs, masks))
    except TrainingError as error:
        raise _find_failing_client(session, jobs, error) from error
    results = zip(jobs, unstack(state), *read(history, all_finite(state)), counts.tolist(), strict=True)
    return [_finish(session, *of_client) for of_client in results]


def _finish(
    session: Session, job: Job, trained: Params, losses: Sequence[float], finite: bool, counts: Sequence[int]
) -> Trained:
    """Build the result of a client; in steps that it has not taken, ``counts`` are 0."""
    taken = [loss for loss, count in zip(losses, counts, strict=True) if count]
    return finish(session, job, trained, taken, [count for count in counts if count], finite=finite)


def _find_failing_client(session: Session, jobs: Sequence[Job], error: TrainingError) -> TrainingError:
    """Train the clients of a failed chunk one by one, and return the error of the first that fails."""
    ordered = sorted(jobs, key=lambda job: job.client)
    try:
        for job in ordered:
            train(session, job)
    except TrainingError as found:
        return found
    clients = ", ".join(str(job.client) for job in ordered)
    return TrainingError(
        f"clients {clients} fail when trained in one batch, but not individually ({error}); use engine 'sequential'",
        client=ordered[0].client,
        round=session.round,
    )


def _train(session: Session, forward: Forward, jobs: Sequence[Job], masks: Masks) -> tuple[Params, Tensor, Tensor]:
    """Return the trained tensors, (C, …), and the losses and numbers of examples of all steps, each (C, S)."""
    starts = [session.begin(job) for job in jobs]
    phases = session.phases(starts[0])
    plans = [
        batches(jobs, session.recipe_of(phase), session.seed, session.round, number, session.lengths)
        for number, phase in enumerate(phases)
    ]
    local = _local_weights(session, forward, starts, phases[0], plans[0]) if len(phases) == 1 else {}
    state = stack([tree.omit(start, local) for start in starts])
    chunk = _Chunk(session, forward, jobs, state, local, masks)
    histories = [
        _train_phase(chunk, phase, on_device(plan, session.data)) for phase, plan in zip(phases, plans, strict=True)
    ]
    state |= {key: weight.finish() for key, weight in local.items()}
    return tree.select(state, starts[0]), torch.cat(histories, 1), torch.cat([plan.counts for plan in plans], 1)


def _local_weights(
    session: Session, forward: Forward, starts: Sequence[Params], phase: Phase, plan: Schedule
) -> dict[str, LocalWeight]:
    """Return the weights of linear layers whose gradient in a step of SGD is smaller as a product, by key."""
    recipe = session.recipe
    if not trains_by_products(session.method, recipe):
        return {}
    found = {}
    for key, rows_per_example in forward.rows.items():
        start, rows = starts[0].get(key), rows_per_example * plan.rows.shape[2]
        if start is None or key not in phase.keys:
            continue
        limit = largest_rank(*start.shape)
        if all(each[key] is start for each in starts) and rows <= limit:
            capacity = min(rows * plan.counts.shape[1], limit)
            found[key] = LocalWeight(start, len(starts), capacity, recipe.rate, recipe.momentum)
    return found


def trains_by_products(method: Method, recipe: Recipe) -> bool:
    """Return whether a local step only adds multiples of the gradients of its batch to the trained tensors."""
    is_sgd = recipe.optimizer == "sgd" and not recipe.weight_decay and recipe.precision == "full"
    return is_sgd and method.expand is None and method.penalty is None


def batches(
    jobs: Sequence[Job], recipe: Recipe, seed: int, round: int, phase: int = 0, lengths: Tensor | None = None
) -> Schedule:
    """Return the batches of C jobs, with a leading client axis, (C, S, b).

    They are the batches that each client would draw if it were trained alone. The counts of a client that has fewer
    steps than others are 0 after its last step.
    """
    plans = [local_schedule(job, recipe, seed, round, phase, lengths) for job in jobs]
    shape = (max(p.rows.shape[0] for p in plans), max(p.rows.shape[1] for p in plans))
    shifts = [plan.shifts for plan in plans if plan.shifts is not None]
    flips = [plan.flips for plan in plans if plan.flips is not None]
    return Schedule(
        _padded([plan.rows for plan in plans], shape, repeat=True),
        _padded([plan.counts for plan in plans], shape[:1]),
        _padded(shifts, (*shape, 2)) if shifts else None,
        _padded(flips, shape) if flips else None,
    )


def _padded(values: Sequence[Tensor], shape: tuple[int, ...], *, repeat: bool = False) -> Tensor:
    """Return the tensors of C clients as one, (C, *shape), padded with 0, or with the first value of each client."""
    if all(value.shape == shape for value in values):
        return torch.stack(list(values))
    padded = values[0].new_zeros((len(values), *shape))
    for c, value in enumerate(values):
        if repeat:
            padded[c] = value.flatten()[0]
        padded[c][tuple(slice(n) for n in value.shape)] = value
    return padded


def _train_phase(chunk: _Chunk, phase: Phase, plan: Schedule) -> Tensor:
    """Train the keys of one phase in place, and return the mean loss of each client's steps, (C, S)."""
    session, steps = chunk.session, plan.counts.shape[1]
    values = {key: value for key, value in chunk.state.items() if key in phase.keys}
    optimizer = Optimizer.create(session.recipe, values, chunk.local)
    wide = torch.float32 if session.device.type == "mps" else torch.float64
    history = torch.zeros(plan.counts.shape, dtype=wide, device=session.device)
    valid = tree.upload(torch.arange(plan.rows.shape[2]) < plan.counts[..., None], session.device)
    active = None
    for step, counts in enumerate(plan.counts.T.tolist()):
        m = sum(count > 0 for count in counts)
        with naming(chunk.jobs[0].client, session.round, step, steps):
            if active is None or active.clients != m:
                active = _Active.first(chunk, optimizer, m)
            fewest = min(counts[:m])
            mask = None if fewest == plan.rows.shape[2] else Mask(valid[:m, step], fewest)
            history[:m, step] = _step(chunk, active, _batch(session, plan, step, m), mask, step + 1)
    return history


class _Active(NamedTuple):
    """The first m clients, which are still training, with their tensors ``state``.

    ``leaves`` are the trained ones of these, and the anchors of the local weights.
    """

    clients: int
    optimizer: Optimizer
    leaves: Params
    state: Params

    @classmethod
    def first(cls, chunk: _Chunk, optimizer: Optimizer, m: int) -> _Active:
        """Return views of the tensors of the first m clients of ``chunk``."""
        of_clients = optimizer.first(m)
        leaves = {key: value.detach().requires_grad_() for key, value in of_clients.values.items()}
        anchors = {key: weight.anchor for key, weight in chunk.local.items()}
        return cls(m, of_clients, leaves | anchors, first(chunk.state, m) | leaves)


def _batch(session: Session, plan: Schedule, step: int, m: int) -> Examples:
    """Return the batches of m clients, (m·b, …)."""
    shifts = None if plan.shifts is None else plan.shifts[:m, step].flatten(0, 1)
    flips = None if plan.flips is None else plan.flips[:m, step].flatten()
    longest = None if plan.longest is None else int(plan.longest[:m, step].max())
    return fetch(session.data, plan.rows[:m, step].flatten(), shifts, flips, session.recipe.crop, longest)


def _step(chunk: _Chunk, active: _Active, batch: Examples, mask: Mask | None, step: int) -> Tensor:
    """Run one local step of m clients, and return their mean losses before the update, (m,).

    ``mask`` marks the valid rows (None: there is no padding).
    """
    session, m, sinks = chunk.session, active.clients, Sinks()
    with chunk.masks.step(m):
        expanded = _expanded(session, active.state)
        with session.autocast():
            each = chunk.forward.run({**expanded, **chunk.local}, session.base, batch, m, mask, sinks).view(m, -1)
        mean = each.mean(1) if mask is None else torch.where(mask.valid, each, 0).sum(1) / mask.valid.sum(1)
        total = mean.sum()
        if session.method.penalty is not None:
            total = total + _penalties(session, active.state, chunk.jobs[:m]).sum()
        for outers in sinks.values():
            outers.clear()  # those of a backward pass inside the model
        gradients = chunk.masks.gradients(total, active.leaves)
    with torch.no_grad():  # the inputs of layers, which are part of gradients, are in the graph
        active.optimizer.step(collected(gradients, sinks), step)
    return mean.detach()


def _expanded(session: Session, train: Params) -> Params:
    if (expand := session.method.expand) is None:
        return train
    return torch.func.vmap(lambda one: expand(session.net, one, session.down))(train)


def _penalties(session: Session, train: Params, jobs: Sequence[Job]) -> Tensor:
    """Return the penalty of each client, (m,); clients are vmapped if their states have the same keys and shapes."""
    net, down, penalty = session.net, session.down, session.method.penalty
    assert penalty is not None
    shapes = [{key: value.shape for key, value in job.client_state.items()} for job in jobs]
    if any(each != shapes[0] for each in shapes):
        return torch.stack([penalty(net, client(train, c), down, job.client_state) for c, job in enumerate(jobs)])
    client_state = stack([job.client_state for job in jobs])
    return torch.func.vmap(lambda one, own_state: penalty(net, one, down, own_state))(train, client_state)
