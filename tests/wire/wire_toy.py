"""A small net, its states, and a toy method similar to FedLoRU whose clients need no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fedloru import lowrank, net, tree
from fedloru.method import Down, Method, Profile, State, Total, Traits, Up, Values
from fedloru.net import Net
from fedloru.rng import gen
from fedloru.tree import Params


def small_net(dtype: torch.dtype = torch.float32) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 10), nn.Linear(10, 3))
    return net.attach(model.to(dtype), rank=2, alpha=4, targets=("0", "3"), dense=("1.*", "*.bias", "4.*"))


def noise(like: Params, *path: str | int) -> Params:
    g = gen(0, *path)
    return {key: torch.randn(t.shape, generator=g).to(t.dtype) for key, t in like.items()}


def random_factors(net: Net, version: int, rank: int) -> Params:
    like = {}
    for site in net.sites:
        like[site.a], like[site.b] = torch.empty(site.a_shape(rank)), torch.empty(site.b_shape(rank))
    return noise(like, "increment", version)


def start(net: Net, seed: int) -> State:
    shared = {key: net.params[key] for key in sorted(net.trainable)}
    shared |= {key: net.buffers[key] for key in net.statistics}
    shared |= lowrank.init_factors(net.sites, seed, 0, net.params)
    return State(seed, 0, 0, tree.omit(net.params, shared), shared, {}, {})


def merged(net: Net, state: State, increment: Params) -> State:
    base = lowrank.merge(net.sites, state.base, increment)
    return state._replace(round=state.round + 1, version=state.version + 1, base=base, increment=increment)


def unmerged(state: State) -> State:
    return state._replace(round=state.round + 1, increment={})


def toy(tau: int) -> Method:
    """Return a method whose clients add noise and whose server merges and resets the factors every ``tau`` rounds."""

    def server(net: Net, state: State, total: Total) -> State:
        shared = tree.cast_like(tree.scale(total.sum.shared, 1 / total.weight), state.shared)
        state = unmerged(state._replace(shared=shared))
        if state.round % tau:
            return state
        state = merged(net, state, tree.select(shared, net.factors))._replace(round=state.round)
        return state._replace(
            shared=shared | lowrank.init_factors(net.sites, state.seed, state.version, net.params),
            aux={"moment": state.shared["1.weight"]},
        )

    def values(net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
        state = start(net, 0)
        factors = sum(site.values() for site in net.sites)
        rest = {
            "dense": tree.size({k: state.shared[k] for k in net.trainable - net.factors}),
            "statistics": tree.size({k: net.buffers[k] for k in net.statistics}),
        }
        fresh = round % tau == 1 or tau == 1
        aux = {"aux": net.params["1.weight"].numel()}
        increment = 0 if round % tau else factors
        return Values(rest | {"factors": 0 if fresh else factors}, rest | aux | {"factors": factors}, increment)

    def begin(net: Net, down: Down, own: Params, profile: Profile) -> Params:
        return down.shared

    def reply(net: Net, train: Params, down: Down, own: Params, steps: int) -> tuple[Up, Params]:
        moved = tree.add(down.shared, noise(down.shared, "client", steps))
        return Up(moved, {"moment": moved["1.weight"]}), own

    def reduce(net: Net, state: State, down: Down, ups: Any, weights: Any) -> Total:
        return Total(sum(weights), Up(tree.weighted_sum([up.shared for up in ups], weights)), {})

    return Method(
        name="toy",
        config={"tau": tau},
        traits=Traits(low_rank=True),
        init=start,
        down=lambda net, state, profile: Down(state.shared, fresh="" if state.round % tau else "a"),
        begin=begin,
        up=reply,
        reduce=reduce,
        server=server,
        values=values,
    )
