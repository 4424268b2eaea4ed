"""Local training of one client, with plain autograd and ``torch.optim``.

This is the reference for every faster engine, and the training code of a real client. It has access only to the
message that the client received and to the client's own examples.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru import own_optimizer, tree
from fedloru.data import Examples, Schedule, fetch, schedule
from fedloru.dropout import Masks
from fedloru.errors import ModelError, diverged, naming
from fedloru.method import Phase
from fedloru.net import Slots, compute_losses, constants, mode
from fedloru.own_optimizer import Own
from fedloru.recipe import Recipe
from fedloru.rng import derive
from fedloru.session import Job, Session, Trained
from fedloru.tree import Params


class _Local(NamedTuple):
    """One client in training: ``state`` is trained and sent, ``frozen`` is not; ``slots`` are those of the module."""

    session: Session
    job: Job
    state: Params
    frozen: Params
    masks: Masks
    slots: Slots


def train(session: Session, job: Job) -> Trained:
    """Train one client on its own examples.

    Raises:
        TrainingError: a local step fails, or a loss or a trained tensor is not finite. The message names the client
            and the round.
        ModelError: the model writes to a frozen weight.
    """
    return session.with_masks([job], lambda masks: _train(session, job, masks))


def _train(session: Session, job: Job, masks: Masks) -> Trained:
    net, state = session.net, tree.clone(session.begin(job))
    versions = {key: value._version for key, value in session.base.items()}
    histories, counts = [], []
    with mode(net, True), Slots(net.model) as slots:
        local = _Local(session, job, state, constants(net, session.base), masks, slots)
        for number, phase in enumerate(session.phases(state)):
            recipe = session.recipe_of(phase)
            plan = local_schedule(job, recipe, session.seed, session.round, number, session.lengths)
            histories.append(_train_phase(local, phase, on_device(plan, session.data)))
            counts.append(plan.counts)
    if written := [key for key, value in session.base.items() if value._version != versions[key]]:
        raise ModelError(
            f"the forward pass writes to {', '.join(written)}, but all clients share frozen weights: train them "
            "(list them in dense), or do not write to them"
        )
    (losses,), (finite,) = read(torch.cat(histories)[None], all_finite(tree.map(lambda t: t[None], state)))
    return finish(session, job, state, losses, torch.cat(counts).tolist(), finite=finite)


def _train_phase(local: _Local, phase: Phase, plan: Schedule) -> Tensor:
    """Train the keys of one phase in place, and return the mean loss of each step, (S,)."""
    session, steps = local.session, len(plan.counts)
    leaves = [value.requires_grad_() for key, value in local.state.items() if key in phase.keys]
    optimizer = build_optimizer(session.recipe, leaves)
    history = []
    for step in range(steps):
        with naming(local.job.client, session.round, step, steps, len(local.job.rows)):
            batch = local_batch(session.data, plan, step, session.recipe)
            optimizer.zero_grad()
            history.append(_add_gradients(local, batch))
            _complete_gradients(leaves)
            if session.recipe.clip:
                torch.nn.utils.clip_grad_norm_(leaves, session.recipe.clip)
            optimizer.step()
    for leaf in leaves:
        leaf.requires_grad_(False)
    return torch.stack(history)


def _add_gradients(local: _Local, batch: Examples) -> Tensor:
    """Run the forward and the backward pass on one batch, and return its mean loss, ()."""
    net, method, down = local.session.net, local.session.method, local.session.down
    tensors = local.frozen | (local.state if method.expand is None else method.expand(net, local.state, down))
    local.slots.insert(tensors)
    with local.masks.step(1):
        with local.session.autocast():
            loss = compute_losses(net, batch).mean()
        total = (
            loss if method.penalty is None else loss + method.penalty(net, local.state, down, local.job.client_state)
        )
        local.masks.backward(total)
    if local.slots.buffers:
        local.slots.read(tensors)
        _update_buffers(local, tensors)
    return loss.detach()


def _complete_gradients(leaves: Sequence[Tensor]) -> None:
    """Make the gradient of a leaf that the loss does not depend on 0, and all gradients dense."""
    for leaf in leaves:
        if leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)
        elif leaf.grad.is_sparse:
            leaf.grad = leaf.grad.to_dense()


def _update_buffers(local: _Local, tensors: Params) -> None:
    """Store the buffers that the forward pass has replaced in ``tensors``."""
    for key in local.slots.buffers:
        owner = local.state if key in local.state else local.frozen
        before, now = owner[key], tensors[key]
        if now is before:
            continue
        if now.shape != before.shape:
            raise ModelError(
                f"the forward pass changed the shape of the buffer {key} from {tuple(before.shape)} to "
                f"{tuple(now.shape)}, but buffers are averaged over clients, so their shape must not change"
            )
        owner[key] = now.detach().to(before.dtype)


def all_finite(stacked: Params) -> Tensor:
    """Return whether all tensors (C, …) of each client are finite, (C,), without synchronizing with the device."""
    # The extrema are NaN if any value is, and computing them needs no temporary of the size of the tensor.
    flat = [value.reshape(len(value), -1) for value in stacked.values() if value.numel()]
    extrema = [extreme for values in flat for extreme in (values.amin(1), values.amax(1))]
    return torch.stack([extreme.isfinite() for extreme in extrema]).all(0)


def read(history: Tensor, finite: Tensor) -> tuple[list[list[float]], list[bool]]:
    """Return the losses (C, S), and whether the trained tensors are finite (C,), as lists, after a single transfer."""
    both = torch.cat([history, finite.to(history).unsqueeze(-1)], -1).cpu()
    return both[:, :-1].tolist(), (both[:, -1] > 0).tolist()


def finish(
    session: Session, job: Job, trained: Params, losses: Sequence[float], counts: Sequence[int], *, finite: bool
) -> Trained:
    """Check the result of one client's training, and build its message with the method's ``up``.

    ``losses`` are the mean losses of its S steps, ``counts`` the numbers of examples in them, and ``finite`` is whether
    all trained tensors are finite.

    Raises:
        TrainingError: a loss or a trained tensor is not finite.
    """
    if problem := _problem(losses, finite):
        raise diverged(problem, session.recipe.rate, client=job.client, round=session.round)
    mean = math.fsum(map(operator.mul, losses, counts)) / sum(counts)
    up, client_state = session.method.up(session.net, trained, session.down, job.client_state, len(counts))
    return Trained(up, client_state, mean)


def _problem(losses: Sequence[float], finite: bool) -> str | None:
    """Return how a client has diverged, or None if it has not."""
    for step, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            return f"the loss became {loss} at local step {step} of {len(losses)}"
    return None if finite else "the trained tensors are not finite after the last local step"


def build_optimizer(recipe: Recipe, leaves: list[Tensor]) -> torch.optim.Optimizer:
    """Return a new optimizer over ``leaves``."""
    if (own := own_optimizer.find(recipe)) is not None:
        return Own(leaves, own, recipe.rate)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(leaves, recipe.rate, recipe.momentum, weight_decay=recipe.weight_decay)
    adam = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return adam(leaves, recipe.rate, recipe.betas, recipe.eps, recipe.weight_decay)


def local_schedule(
    job: Job, recipe: Recipe, seed: int, round: int, phase: int = 0, lengths: Tensor | None = None
) -> Schedule:
    """Return the batches of one client in one phase of a round; each phase has its own random draws.

    If the ``lengths`` (N,) of all examples are given, batches are grouped by length.
    """
    return schedule(
        job.rows,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        steps=recipe.steps,
        drop_last=recipe.drop_last,
        lengths=None if lengths is None else lengths[job.rows.to(lengths.device)],
        crop=recipe.crop,
        flip=recipe.flip,
        seed=derive(seed, "phase", phase) if phase else seed,
        round=round,
        client=job.client,
    )


def on_device(plan: Schedule, data: Examples) -> Schedule:
    """Return ``plan`` with the indices of its batches on the device of ``data``.

    Counts and the lengths of the batches stay on the CPU, because they are read there at every step.
    """
    device = next(iter(data.values())).device
    rows = tree.upload(plan.rows, device)
    shifts = None if plan.shifts is None else tree.upload(plan.shifts, device)
    flips = None if plan.flips is None else tree.upload(plan.flips, device)
    longest = data["length"][rows].amax(-1).cpu() if "length" in data else None
    return Schedule(rows, plan.counts, shifts, flips, longest)


def local_batch(data: Examples, plan: Schedule, step: int, recipe: Recipe) -> Examples:
    """Return the examples of one local step, without padding."""
    valid = int(plan.counts[step])
    shifts = None if plan.shifts is None else plan.shifts[step, :valid]
    flips = None if plan.flips is None else plan.flips[step, :valid]
    longest = None if plan.longest is None else int(plan.longest[step])
    return fetch(data, plan.rows[step, :valid], shifts, flips, recipe.crop, longest)
