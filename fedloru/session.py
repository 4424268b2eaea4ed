"""What clients do in a round: their jobs, what these have in common, and their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fedloru.data import Examples
from fedloru.dropout import Masks, train_with_masks
from fedloru.method import Down, Method, Phase, Profile, Up
from fedloru.net import Net, autocast
from fedloru.recipe import Recipe
from fedloru.tree import Params

T = TypeVar("T")


class Job(NamedTuple):
    """The work of one client in a round; ``rows`` are its training examples, ``client_state`` its state so far."""

    client: int
    rows: Tensor
    client_state: Params = {}
    profile: Profile = ()


class Trained(NamedTuple):
    """The result of local training: the message to the server, the new client state, and the mean loss in nats."""

    up: Up
    client_state: Params
    loss: float


class Session(NamedTuple):
    """What the clients of one round and one profile have in common; ``recipe`` has the learning rate of the round."""

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
        """The device of the examples, on which all computation runs."""
        return next(iter(self.data.values())).device

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass of a local step."""
        return autocast(self.recipe.precision, self.device)

    def with_masks(self, jobs: Sequence[Job], train: Callable[[Masks], T]) -> T:
        """Return the result of ``train`` with the dropout masks of the clients of ``jobs``."""
        clients = [job.client for job in jobs]
        return train_with_masks(self.net.model, self.device, train, seed=self.seed, round=self.round, clients=clients)

    @property
    def lengths(self) -> Tensor | None:
        """The lengths of all examples, (N,), if batches are grouped by length; else None."""
        return self.data["length"] if self.recipe.bucket else None

    def begin(self, job: Job) -> Params:
        """Return the trainable tree with which a client starts."""
        return self.method.begin(self.net, self.down, job.client_state, job.profile)

    def phases(self, start: Params) -> tuple[Phase, ...]:
        """Return the phases of local training from ``start``."""
        if self.method.phases is not None:
            return self.method.phases(self.net, start)
        return (Phase(frozenset(start.keys() - self.net.buffers.keys())),)

    def recipe_of(self, phase: Phase) -> Recipe:
        """Return the recipe, with the epochs of ``phase`` if it specifies them."""
        return self.recipe if phase.epochs is None else self.recipe._replace(epochs=phase.epochs, steps=None)
