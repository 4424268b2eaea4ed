"""Rounds without a forward pass: clients receive real messages, add noise in place of training, and reply.

All functions of a method except ``expand`` and ``penalty`` are called as in a run, and clients that missed rounds
catch up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from fedloru import tree
from fedloru.data import Examples
from fedloru.method import NOTHING, Down, Method, Profile, State, Total, Up
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.rng import gen
from fedloru.session import Job, Session
from fedloru.tree import Params
from fedloru.wire import Channel, Ledger
from fedloru.wire.grid import on_grid

SEED, RUN, CLIENTS, COHORT, ROUNDS = 3, "check", 4, 3, 5
CAPPED: Profile = (("rank", 1.0),)


class Stage(NamedTuple):
    """A method, a net and, if available, examples."""

    method: Method
    net: Net
    data: Examples | None = None

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The profiles of the clients: some have rank 1 if the method supports that."""
        return ((),) * CLIENTS if self.method.traits.ranks == "one" else (CAPPED, (), (), CAPPED)

    def cohort(self, round: int) -> list[int]:
        """Return the clients of a round, counted from 1."""
        return sorted((round + k) % CLIENTS for k in range(COHORT))


class Exchange(NamedTuple):
    """What one client received, started from and sent."""

    client: int
    profile: Profile
    down: Down
    begun: Params
    up: Up


class Rehearsed(NamedTuple):
    """One round: the state before and after, the exchanges of its clients, their weights and the total."""

    before: State
    after: State
    exchanges: Sequence[Exchange]
    weights: Sequence[float]
    total: Total
    channel: Channel


def rehearse(stage: Stage, *, rounds: int = ROUNDS, noise: float = 0.05, codec: str = "exact") -> Iterator[Rehearsed]:
    """Yield ``rounds`` rounds; ``noise`` is the standard deviation of the changes that clients make."""
    method, net = stage.method, stage.net
    state = method.init(net, SEED)
    ledger = Ledger(net.sites, state, codec=codec)
    channel = Channel(net, method.name, RUN, codec)
    kept: dict[int, Params] = {}
    for _ in range(rounds):
        channel.accounts.clear()
        exchanges = []
        for client in stage.cohort(state.round + 1):
            profile = stage.profiles[client]
            channel.sync(ledger.owed(client, state), state, profile)
            ledger.delivered(client, state.version)
            exchange, kept[client] = _exchange(stage, state, client, kept.get(client, {}), channel, noise)
            exchanges.append(exchange)
        weights = [float(1 + exchange.client) for exchange in exchanges]
        total = reduced(stage, state, exchanges, weights)
        after = on_grid(net.sites, state, method.server(net, state, total), codec)
        ledger.record(after)
        yield Rehearsed(state, after, exchanges, weights, total, channel)
        state = after


def reduced(stage: Stage, state: State, exchanges: Sequence[Exchange], weights: Sequence[float]) -> Total:
    """Return the total of ``exchanges``, reduced one profile at a time, as in the engines."""
    total = NOTHING
    for profile in sorted({exchange.profile for exchange in exchanges}):
        pairs = [(e, w) for e, w in zip(exchanges, weights, strict=True) if e.profile == profile]
        ups, down = [exchange.up for exchange, _ in pairs], pairs[0][0].down
        part = stage.method.reduce(stage.net, state, down, ups, [weight for _, weight in pairs])
        total = total.join(part, stage.net)
    return total


def _exchange(
    stage: Stage, state: State, client: int, kept: Params, channel: Channel, noise: float
) -> tuple[Exchange, Params]:
    method, net, profile = stage.method, stage.net, stage.profiles[client]
    down = channel.down(method.down(net, state, profile), state, 1, profile)
    begun = method.begin(net, down, kept, profile)
    trained = changed(stage, state, down, begun, client, noise)
    up, own = method.up(net, trained, down, kept, 1)
    numbers = {"weight": 1.0, "loss": 0.0}
    received = channel.up(up, down, client, state.round + 1, state.version, numbers, profile)
    return Exchange(client, profile, down, begun, received), own


def changed(stage: Stage, state: State, down: Down, begun: Params, client: int, noise: float) -> Params:
    """Return the tree of a client, with noise added to the keys that its phases train."""
    session = Session(stage.net, stage.method, state.base, down, {}, Recipe(), SEED, state.round + 1)
    keys = frozenset().union(*(phase.keys for phase in session.phases(begun)))
    trained = tree.clone(begun)
    for key in sorted(keys):
        g = gen(SEED, "rehearsal", state.round, client, key)
        step = torch.randn(begun[key].shape, generator=g).to(begun[key])
        trained[key] = trained[key] + noise * step if noise else trained[key]
    return trained


def jobs(stage: Stage, examples: int) -> list[Job]:
    """Return a job for each client, with an uneven share of ``examples`` examples."""
    cuts = [round(examples * share) for share in (0.0, 0.2, 0.3, 0.7, 1.0)]
    rows = [torch.arange(start, stop) for start, stop in pairwise(cuts)]
    return [Job(client, own, {}, stage.profiles[client]) for client, own in enumerate(rows) if len(own)]
