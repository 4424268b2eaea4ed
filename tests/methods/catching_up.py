"""Clients that miss rounds and lose their bases, and receive bases only through sync messages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fedloru import net as nets
from fedloru import tree
from fedloru.method import NOTHING, Method, Profile
from fedloru.rng import gen
from fedloru.wire import Ledger, MessageSpec, catch_up, decode_sync, encode_sync

CLIENTS, COHORT, ROUNDS = 8, 2, 60


def sync_kinds(method: Method, profiles: Sequence[Profile] = ((),)) -> set[str]:
    """Run ROUNDS rounds with a 40 × 30 matrix, check all bases, and return the kinds of sync messages."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nets.attach(nn.Linear(30, 40), rank=2, alpha=3.0)
    state = method.init(net, 3)
    ledger = Ledger(net.sites, state)
    spec = MessageSpec(net, method, "run")
    held: dict[int, tree.Params] = {}
    kinds = set()
    for round in range(ROUNDS):
        g = gen(1, "cohort", round)
        total = NOTHING
        for client in torch.randperm(CLIENTS, generator=g)[:COHORT].tolist():
            if torch.rand((), generator=g) < 0.1:
                ledger.lost(client)
                held.pop(client, None)
            owed = ledger.owed(client, state)
            kinds.add("first" if owed.first else "dense" if owed.base else "increments")
            size = sum(tree.nbytes(increment) for _, increment in owed.increments)
            assert size <= tree.nbytes({"": state.base["weight"]})
            _, sync = decode_sync(encode_sync(owed, state, method=method.name, run="run", codec="exact"), spec)
            held[client] = catch_up(net.sites, held.get(client, {}), sync)
            ledger.delivered(client, state.version)
            assert tree.equal(held[client], state.base)
            profile = profiles[client % len(profiles)]
            down = method.down(net, state, profile)
            start = method.begin(net, down, {}, profile)
            train = tree.map(lambda t: t + 0.1 * torch.randn(t.shape, generator=gen(2, round, client)), start)  # noqa: B023
            up, _ = method.up(net, train, down, {}, 1)
            total = total.join(method.reduce(net, state, down, [up], [client + 1.0]), net)
        state = method.server(net, state, total)
        ledger.record(state)
    return kinds
