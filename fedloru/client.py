"""One client's local training, with plain autograd and ``torch.optim``.

This is the oracle that every faster engine is held against, and the body of a real client. It knows what came over
the wire, its own examples and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.data import Examples, Schedule, fetch, schedule
from fedloru.dropout import ClientDropout, generators
from fedloru.errors import TrainingError
from fedloru.method import Down, Method, Phase, Profile, Up
from fedloru.net import Net, losses, mode
from fedloru.recipe import Recipe
from fedloru.rng import derive
from fedloru.tree import Params


class Job(NamedTuple):
    """A client's part in a round: ``rows`` are its training examples, ``own`` what it keeps between rounds."""

    client: int
    rows: Tensor
    own: Params = {}
    profile: Profile = ()


class Trained(NamedTuple):
    """What local training leaves: the message, what the client keeps, and its mean loss in nats."""

    up: Up
    own: Params
    loss: float


class Session(NamedTuple):
    """What all clients of one round and one profile train with; ``recipe`` has the round's learning rate."""

    net: Net
    method: Method
    base: Params
    down: Down
    data: Examples
    recipe: Recipe
    seed: int
    round: int

    @property
    def device(self) -> torch.device:
        """Where the examples are, and all work is done."""
        return next(iter(self.data.values())).device

    def begin(self, job: Job) -> Params:
        """Return the tree that a client begins with."""
        return self.method.begin(self.net, self.down, job.own, job.profile)

    def phases(self, start: Params) -> tuple[Phase, ...]:
        """Return the phases of training what was begun with."""
        if self.method.phases is not None:
            return self.method.phases(self.net, start)
        return (Phase(frozenset(start.keys() - self.net.buffers.keys())),)

    def recipe_of(self, phase: Phase) -> Recipe:
        """Return the recipe with the epochs of ``phase``, where it has its own."""
        return self.recipe if phase.epochs is None else self.recipe._replace(epochs=phase.epochs, steps=None)


def train(session: Session, job: Job) -> Trained:
    """Train one client on its own examples.

    Raises:
        TrainingError: a loss or a result is not finite; it names the client and the round.
    """
    device = session.device
    state = tree.clone(session.begin(job))
    histories, counts = [], []
    with mode(session.net, True), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derive(session.seed, "global", session.round, job.client))
        with ClientDropout(generators(session.seed, session.round, [job.client], device)):
            for number, phase in enumerate(session.phases(state)):
                recipe = session.recipe_of(phase)
                plan = local_schedule(job, recipe, session.seed, session.round, number)
                histories.append(_train_phase(session, job, state, phase, plan))
                counts.append(plan.counts)
    return finish(session, job, state, torch.cat(histories), torch.cat(counts))


def _train_phase(session: Session, job: Job, state: Params, phase: Phase, plan: Schedule) -> Tensor:
    """Train the keys of one phase in place, and return the mean loss of every step, (S,)."""
    net, method, recipe = session.net, session.method, session.recipe
    leaves = [value.requires_grad_() for key, value in state.items() if key in phase.keys]
    optimizer = build_optimizer(recipe, leaves)
    frozen = constants(net, session.base)
    history = []
    for step in range(len(plan.counts)):
        batch = local_batch(session.data, plan, step, recipe)
        tensors = frozen | (state if method.expand is None else method.expand(net, state, session.down))
        loss = losses(net, tensors, batch).mean()
        history.append(loss.detach())
        if method.penalty is not None:
            loss = loss + method.penalty(net, state, session.down, job.own)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(leaves, recipe.clip)
        optimizer.step()
    for leaf in leaves:
        leaf.requires_grad_(False)
    return torch.stack(history)


def finish(session: Session, job: Job, trained: Params, history: Tensor, counts: Tensor) -> Trained:
    """Check what one client trained, and let the method make its message.

    ``history`` (S,) are the mean losses of its steps, ``counts`` (S,) their numbers of examples.

    Raises:
        TrainingError: a loss or a trained tensor is not finite.
    """
    loss = check_training(history, counts, trained.values(), job.client, session.round, session.recipe.lr)
    up, own = session.method.up(session.net, trained, session.down, job.own, len(history))
    return Trained(up, own, loss)


def build_optimizer(recipe: Recipe, leaves: list[Tensor]) -> torch.optim.Optimizer:
    """Return a new optimizer over ``leaves``, whose gradients start at 0."""
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(leaves, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    adam = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return adam(leaves, recipe.lr, recipe.betas, recipe.eps, recipe.weight_decay)


def constants(net: Net, base: Params) -> Params:
    """Return the base and copies of the counters that layers keep, such as BatchNorm's number of batches."""
    counters = {key: value.clone() for key, value in net.buffers.items() if key not in net.statistics}
    device = next(iter(base.values())).device if base else None
    return base | {key: value.to(device) if device else value for key, value in counters.items()}


def local_schedule(job: Job, recipe: Recipe, seed: int, round: int, phase: int = 0) -> Schedule:
    """Return the batches of one client in a phase of a round; every phase draws its own."""
    return schedule(
        job.rows,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        steps=recipe.steps,
        crop=recipe.crop,
        flip=recipe.flip,
        seed=derive(seed, "phase", phase) if phase else seed,
        round=round,
        client=job.client,
    )


def local_batch(data: Examples, plan: Schedule, step: int, recipe: Recipe) -> Examples:
    """Return the examples of one local step, without padding."""
    valid = int(plan.counts[step])
    shifts = None if plan.shifts is None else plan.shifts[step, :valid]
    flips = None if plan.flips is None else plan.flips[step, :valid]
    return fetch(data, plan.rows[step, :valid], shifts, flips, recipe.crop)


def check_training(
    history: Tensor, counts: Tensor, trained: Iterable[Tensor], client: int, round: int, lr: float
) -> float:
    """Return the mean loss per example over the local steps (S,), or refuse a client that diverged.

    Raises:
        TrainingError: a loss of ``history``, or a trained tensor, is not finite.
    """
    cure = f"lower the learning rate (now {lr:g}) or the scale alpha/rank, or clip the gradient norm"
    bad = (~torch.isfinite(history)).nonzero()
    if len(bad):
        step = int(bad[0])
        raise TrainingError(
            f"the loss became {history[step].item()} at local step {step + 1} of {len(history)}; {cure}",
            client=client,
            round=round,
        )
    if not all(bool(torch.isfinite(value).all()) for value in trained):
        raise TrainingError(
            f"the trained tensors are not finite after the last local step; {cure}", client=client, round=round
        )
    weights = counts.to(history)
    return float((history * weights).sum() / weights.sum())
