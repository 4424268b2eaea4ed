"""One client's local training, with plain autograd and ``torch.optim``.

This is the oracle that every faster engine is held against, and the body of a real client. It knows what came over
the wire, its own examples and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.data import Examples, Schedule, fetch, schedule
from fedloru.dropout import ClientDropout, backward, generators
from fedloru.errors import ModelError, TrainingError, naming
from fedloru.method import Down, Method, Phase, Profile, Up
from fedloru.net import Net, constants, held_losses, holding, mode
from fedloru.recipe import Recipe
from fedloru.rng import derive, forked
from fedloru.tree import Params


class Job(NamedTuple):
    """A client's part in a round: ``rows`` are its training examples, ``client_state`` what it keeps between rounds."""

    client: int
    rows: Tensor
    client_state: Params = {}
    profile: Profile = ()


class Trained(NamedTuple):
    """What local training leaves: the message, what the client keeps, and its mean loss in nats."""

    up: Up
    client_state: Params
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

    @property
    def lengths(self) -> Tensor | None:
        """The lengths of all examples, (N,), where batches are to be of like length."""
        return self.data["length"] if self.recipe.bucket else None

    def begin(self, job: Job) -> Params:
        """Return the tree that a client begins with."""
        return self.method.begin(self.net, self.down, job.client_state, job.profile)

    def phases(self, start: Params) -> tuple[Phase, ...]:
        """Return the phases of training what was begun with."""
        if self.method.phases is not None:
            return self.method.phases(self.net, start)
        return (Phase(frozenset(start.keys() - self.net.buffers.keys())),)

    def recipe_of(self, phase: Phase) -> Recipe:
        """Return the recipe with the epochs of ``phase``, where it has its own."""
        return self.recipe if phase.epochs is None else self.recipe._replace(epochs=phase.epochs, steps=None)


class _Local(NamedTuple):
    """One client while it trains: ``state`` is trained and sent, ``frozen`` is neither; ``draws`` are its dropout's."""

    session: Session
    job: Job
    state: Params
    frozen: Params
    draws: Sequence[torch.Generator]


def train(session: Session, job: Job) -> Trained:
    """Train one client on its own examples.

    Raises:
        TrainingError: a local step fails, or a loss or a result is not finite; it names the client and the round.
        ModelError: the model writes to a weight that is frozen.
    """
    device, net = session.device, session.net
    state, frozen = tree.clone(session.begin(job)), constants(net, session.base)
    local = _Local(session, job, state, frozen, generators(session.seed, session.round, [job.client]))
    versions = {key: value._version for key, value in session.base.items()}
    histories, counts = [], []
    with mode(net, True), forked(device):
        torch.manual_seed(derive(session.seed, "global", session.round, job.client))
        for number, phase in enumerate(session.phases(state)):
            recipe = session.recipe_of(phase)
            plan = local_schedule(job, recipe, session.seed, session.round, number, session.lengths)
            histories.append(_train_phase(local, phase, on_device(plan, session.data)))
            counts.append(plan.counts)
    if written := [key for key, value in session.base.items() if value._version != versions[key]]:
        raise ModelError(
            f"the model writes to {', '.join(written)}, but what is frozen is the same for all clients: train it "
            "(name it in dense), or do not write to it"
        )
    history, sound = read(torch.cat(histories), all_finite(state))
    return finish(session, job, state, history, torch.cat(counts), sound=bool(sound))


def _train_phase(local: _Local, phase: Phase, plan: Schedule) -> Tensor:
    """Train the keys of one phase in place, and return the mean loss of every step, (S,)."""
    session, steps = local.session, len(plan.counts)
    leaves = [value.requires_grad_() for key, value in local.state.items() if key in phase.keys]
    optimizer = build_optimizer(session.recipe, leaves)
    history = []
    for step in range(steps):
        with naming(local.job.client, session.round, step, steps):
            batch = local_batch(session.data, plan, step, session.recipe)
            optimizer.zero_grad(set_to_none=False)
            history.append(_add_gradients(local, batch))
            if session.recipe.clip is not None:
                torch.nn.utils.clip_grad_norm_(leaves, session.recipe.clip)
            optimizer.step()
    for leaf in leaves:
        leaf.requires_grad_(False)
    return torch.stack(history)


def _add_gradients(local: _Local, batch: Examples) -> Tensor:
    """Go forward and backward on one batch, and return its mean loss, ()."""
    net, method, down = local.session.net, local.session.method, local.session.down
    tensors = local.frozen | (local.state if method.expand is None else method.expand(net, local.state, down))
    with ClientDropout(local.draws), holding(net, tensors):
        loss = held_losses(net, batch).mean()
        total = (
            loss if method.penalty is None else loss + method.penalty(net, local.state, down, local.job.client_state)
        )
        backward(total)
    _keep_buffers(local, tensors)
    return loss.detach()


def _keep_buffers(local: _Local, tensors: Params) -> None:
    """Take over the ``tensors`` that the model put in the place of its buffers."""
    for key, _ in local.session.net.model.named_buffers():
        home = local.state if key in local.state else local.frozen
        before, now = home[key], tensors[key]
        if now is before:
            continue
        if now.shape != before.shape:
            raise ModelError(
                f"the forward pass changed the shape of the buffer {key} from {tuple(before.shape)} to "
                f"{tuple(now.shape)}, but buffers are averaged over clients: keep its shape"
            )
        home[key] = now.detach().to(before.dtype)


def all_finite(trained: Params) -> Tensor:
    """Say whether every tensor is finite, (), without waiting for the device."""
    # Both ends are NaN where any value is, and finding them takes no temporary of the size of the tensor.
    ends = [end for value in trained.values() if value.numel() for end in (value.amin(), value.amax())]
    return torch.stack([end.isfinite() for end in ends]).all()


def read(history: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
    """Fetch losses (…, S), and whether what they led to is sound (…), from the device at once."""
    both = torch.cat([history, sound.to(history).unsqueeze(-1)], -1).cpu()
    return both[..., :-1], both[..., -1] > 0


def finish(session: Session, job: Job, trained: Params, history: Tensor, counts: Tensor, *, sound: bool) -> Trained:
    """Check what one client trained, and let the method make its message.

    ``history`` (S,) are the mean losses of its steps, ``counts`` (S,) their numbers of examples, and ``sound`` says
    whether all that it trained is finite.

    Raises:
        TrainingError: a loss or a trained tensor is not finite.
    """
    loss = _mean_loss(session, job, history, counts, sound)
    up, client_state = session.method.up(session.net, trained, session.down, job.client_state, len(history))
    return Trained(up, client_state, loss)


def _mean_loss(session: Session, job: Job, history: Tensor, counts: Tensor, sound: bool) -> float:
    """Return the mean loss per example, or refuse a client that diverged."""
    cure = f"lower the learning rate (now {session.recipe.lr:g}) or the scale alpha/rank, or clip the gradient norm"
    bad = (~history.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0])
        raise TrainingError(
            f"the loss became {history[step].item()} at local step {step + 1} of {len(history)}; {cure}",
            client=job.client,
            round=session.round,
        )
    if not sound:
        raise TrainingError(
            f"the trained tensors are not finite after the last local step; {cure}",
            client=job.client,
            round=session.round,
        )
    weights = counts.to(history)
    return float((history * weights).sum() / weights.sum())


def build_optimizer(recipe: Recipe, leaves: list[Tensor]) -> torch.optim.Optimizer:
    """Return a new optimizer over ``leaves``, whose gradients start at 0."""
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(leaves, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    adam = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return adam(leaves, recipe.lr, recipe.betas, recipe.eps, recipe.weight_decay)


def local_schedule(
    job: Job, recipe: Recipe, seed: int, round: int, phase: int = 0, lengths: Tensor | None = None
) -> Schedule:
    """Return the batches of one client in a phase of a round; every phase draws its own.

    With the ``lengths`` (N,) of all examples, batches are of like length.
    """
    return schedule(
        job.rows,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        steps=recipe.steps,
        lengths=None if lengths is None else lengths[job.rows.to(lengths.device)],
        crop=recipe.crop,
        flip=recipe.flip,
        seed=derive(seed, "phase", phase) if phase else seed,
        round=round,
        client=job.client,
    )


def on_device(plan: Schedule, data: Examples) -> Schedule:
    """Return ``plan`` with all that a batch of ``data`` is fetched by on its device.

    Counts, and how long the batches are, stay on the CPU, where they are asked for at every step.
    """
    device = next(iter(data.values())).device
    rows = plan.rows.to(device)
    shifts = None if plan.shifts is None else plan.shifts.to(device)
    flips = None if plan.flips is None else plan.flips.to(device)
    longest = data["length"][rows].amax(-1).cpu() if "length" in data else None
    return Schedule(rows, plan.counts, shifts, flips, longest)


def local_batch(data: Examples, plan: Schedule, step: int, recipe: Recipe) -> Examples:
    """Return the examples of one local step, without padding."""
    valid = int(plan.counts[step])
    shifts = None if plan.shifts is None else plan.shifts[step, :valid]
    flips = None if plan.flips is None else plan.flips[step, :valid]
    longest = None if plan.longest is None else int(plan.longest[step])
    return fetch(data, plan.rows[step, :valid], shifts, flips, recipe.crop, longest)
