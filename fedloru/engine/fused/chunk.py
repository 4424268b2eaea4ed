"""Local training of one chunk of clients, with all clients in every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.client import Job, Session, Trained, all_finite, finish, local_schedule, on_device, read, train
from fedloru.data import Examples, Schedule, fetch
from fedloru.dropout import ClientDropout, generators, gradients
from fedloru.engine.fused.fold import Forward
from fedloru.engine.fused.leaves import Mask
from fedloru.engine.fused.optimizer import Optimizer
from fedloru.engine.fused.stack import client, first, stack
from fedloru.errors import TrainingError, naming
from fedloru.method import Phase
from fedloru.recipe import Recipe
from fedloru.rng import forked
from fedloru.tree import Params


class _Chunk(NamedTuple):
    """A chunk in training: ``state`` (C, …) is trained and sent, ``generators`` draw dropout masks."""

    session: Session
    forward: Forward
    jobs: Sequence[Job]
    state: Params
    generators: Sequence[torch.Generator]


def train_chunk(session: Session, forward: Forward, jobs: Sequence[Job]) -> list[Trained]:
    """Train ``jobs``, sorted by descending number of steps, in one batch; results are in the same order.

    Raises:
        TrainingError: a local step fails, or a loss or a trained tensor is not finite. The message names the client
            and the round.
    """
    dropout_generators = generators(session.seed, session.round, [job.client for job in jobs])
    chunk = _Chunk(session, forward, jobs, stack([session.begin(job) for job in jobs]), dropout_generators)
    try:
        with forked(session.device):
            history, counts = _train(chunk)
    except TrainingError as error:
        raise _find_failing_client(session, jobs, error) from error
    losses, finite = read(history, torch.func.vmap(all_finite)(chunk.state))
    return [
        finish(session, job, client(chunk.state, c), loss[count > 0], count[count > 0], finite=bool(finite[c]))
        for c, (job, loss, count) in enumerate(zip(jobs, losses, counts, strict=True))
    ]


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


def _train(chunk: _Chunk) -> tuple[Tensor, Tensor]:
    """Train the stacked state in place; return the losses and the numbers of examples of all steps, each (C, S)."""
    session, histories, counts = chunk.session, [], []
    for number, phase in enumerate(session.phases(client(chunk.state, 0))):
        recipe = session.recipe_of(phase)
        plan = batches(chunk.jobs, recipe, session.seed, session.round, number, session.lengths)
        histories.append(_train_phase(chunk, phase, on_device(plan, session.data)))
        counts.append(plan.counts)
    return torch.cat(histories, 1), torch.cat(counts, 1)


def batches(
    jobs: Sequence[Job], recipe: Recipe, seed: int, round: int, phase: int = 0, lengths: Tensor | None = None
) -> Schedule:
    """Return the batches of C jobs, with a leading client axis, (C, S, b).

    They are the batches that each client would draw if it were trained alone. The counts of a client that has fewer
    steps than others are 0 after its last step.
    """
    plans = [local_schedule(job, recipe, seed, round, phase, lengths) for job in jobs]
    shape = (max(p.rows.shape[0] for p in plans), max(p.rows.shape[1] for p in plans))
    rows = torch.stack([_pad(plan.rows, shape, int(plan.rows[0, 0])) for plan in plans])
    counts = torch.stack([_pad(plan.counts, shape[:1], 0) for plan in plans])
    shifts = [_pad(plan.shifts, (*shape, 2), 0) for plan in plans if plan.shifts is not None]
    flips = [_pad(plan.flips, shape, 0) for plan in plans if plan.flips is not None]
    return Schedule(rows, counts, torch.stack(shifts) if shifts else None, torch.stack(flips) if flips else None)


def _pad(values: Tensor, shape: Sequence[int], fill: int) -> Tensor:
    padded = values.new_full(tuple(shape), fill)
    padded[tuple(slice(n) for n in values.shape)] = values
    return padded


def _train_phase(chunk: _Chunk, phase: Phase, plan: Schedule) -> Tensor:
    """Train the keys of one phase in place, and return the mean loss of each client's steps, (C, S)."""
    session, steps = chunk.session, plan.counts.shape[1]
    optimizer = Optimizer(session.recipe, {key: value for key, value in chunk.state.items() if key in phase.keys})
    wide = torch.float32 if session.device.type == "mps" else torch.float64
    history = torch.zeros(plan.counts.shape, dtype=wide, device=session.device)
    valid = tree.upload(torch.arange(plan.rows.shape[2]) < plan.counts[..., None], session.device)
    for step, m in enumerate((plan.counts > 0).sum(0).tolist()):
        with naming(chunk.jobs[0].client, session.round, step, steps):
            batch = _batch(session, plan, valid, step, m)
            history[:m, step] = _step(chunk, optimizer, batch, step + 1)
    return history


class _Batch(NamedTuple):
    """The batches of m clients, (m·b, …); ``mask`` marks the valid rows (None: there is no padding)."""

    examples: Examples
    clients: int
    mask: Mask | None


def _batch(session: Session, plan: Schedule, valid: Tensor, step: int, m: int) -> _Batch:
    shifts = None if plan.shifts is None else plan.shifts[:m, step].flatten(0, 1)
    flips = None if plan.flips is None else plan.flips[:m, step].flatten()
    longest = None if plan.longest is None else int(plan.longest[:m, step].max())
    examples = fetch(session.data, plan.rows[:m, step].flatten(), shifts, flips, session.recipe.crop, longest)
    fewest = int(plan.counts[:m, step].min())
    is_full = fewest == plan.rows.shape[2]
    return _Batch(examples, m, None if is_full else Mask(valid[:m, step], fewest))


def _step(chunk: _Chunk, optimizer: Optimizer, batch: _Batch, step: int) -> Tensor:
    """Run one local step of m clients, and return their mean losses before the update, (m,)."""
    session, m, mask = chunk.session, batch.clients, batch.mask
    leaves = {key: value.detach().requires_grad_() for key, value in first(optimizer.values, m).items()}
    trained = first(chunk.state, m) | leaves
    with ClientDropout(chunk.generators[:m]):
        expanded = _expanded(session, trained)
        with session.autocast():
            each = chunk.forward(expanded, session.base, batch.examples, m, mask).view(m, -1)
        mean = each.mean(1) if mask is None else torch.where(mask.valid, each, 0).sum(1) / mask.valid.sum(1)
        total = mean.sum()
        if session.method.penalty is not None:
            total = total + _penalties(session, trained, chunk.jobs[:m]).sum()
        found = gradients(total, leaves)
    optimizer.step(_unaliased(found), step)
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


def _unaliased(gradients: Params) -> Params:
    """Return gradients that share no memory, because the optimizer writes to them."""
    # Autograd may return the same tensor for two parameters, as for u + v, or an expanded one, as for a sum.
    uses = Counter(g.untyped_storage().data_ptr() for g in gradients.values())
    unshared = {key: uses[g.untyped_storage().data_ptr()] == 1 and 0 not in g.stride() for key, g in gradients.items()}
    return {key: g if unshared[key] else g.clone() for key, g in gradients.items()}
