"""FedMUD: low-rank updates that are merged and reset every interval, with or without aggregation-aware decomposition.

Li, Luo, Wang, Tang, Xu, Luo, Li, He, Li, "The Panaceas for Improving Low-Rank Decomposition in
Communication-Efficient Federated Learning", ICML 2025, arXiv 2505.23176::

    MUD         ΔW = U V
    MUD+AAD     ΔW = L̃ R + L R̃   with fixed random L̃ (o × r), R̃ (r × i) from (seed, version);  L = R = 0 at first
    clients     minimise f_k(W + s·ΔW; θ) over (U, V, θ) or (L, R, θ)
    server      means;  every interval:  W ← W + s·ΔW,  version += 1,  reset

Without AAD this is ``fedloru(tau=interval)``, which draws V and sets U = 0. With AAD, ΔW is linear in what is
trained, so the mean is exact. R travels as A, L as B; to the layer, and in an increment, they are factors of rank 2r,
([L̃ L], [R; R̃]). An increment therefore costs a client that catches up 2r(o + i) values: the ledger does not know that
half of it could be drawn. L̃ and R̃ are never sent otherwise, while the zeros of a reset are. Different from the paper:
s is the site's α/r, with the paper's 1 as default, and its block-wise Kronecker form (BKD) is left out.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from fedloru import lowrank, tree
from fedloru.method import Down, Method, Phase, Profile, State, Total, Up, Values
from fedloru.methods.accumulate import is_merge_round, merged
from fedloru.methods.fedavg import average
from fedloru.methods.fedlora import fedlora, live_factors, start
from fedloru.methods.fedlora import values as lora_values
from fedloru.methods.fedloru import fedloru
from fedloru.methods.settings import expect, refuse
from fedloru.net import Net
from fedloru.tree import Params

FIXED = "fedmud."


def fedmud(*, interval: float = 10, aad: bool = True) -> Method:
    """Return FedMUD. Values each way: r(o + i) a site, and θ; without AAD, fresh factors cost nothing down.

    ``interval`` are the rounds from one merge to the next; ``inf`` never merges.
    """
    whole = interval == math.inf or (interval >= 1 and interval == int(interval))
    refuse("fedmud", expect(whole, "interval", interval, "a whole number of rounds from 1, or inf"))
    config = {"interval": interval, "aad": aad}
    if not aad:
        return fedloru(tau=interval)._replace(name="fedmud", config=config)
    return fedlora()._replace(
        name="fedmud",
        config=config,
        init=lambda net, seed: _reset(net, start(net, seed, "a")),
        begin=_begin,
        expand=_expand,
        up=lambda net, train, down, client_state, steps: (Up(_trained(train)), client_state),
        phases=lambda net, train: (Phase(frozenset(_trained(train).keys() - net.buffers.keys())),),
        server=partial(_server, interval),
        values=lambda net, round, cohort, profile: _values(interval, net, round),
    )


def _reset(net: Net, state: State) -> State:
    return state._replace(shared=state.shared | tree.map(torch.zeros_like, live_factors(net, state)))


def _fixed(net: Net, seed: int, version: int, like: Params) -> Params:
    """Return L̃ and R̃ of the cycle that follows ``version`` merges."""
    return {FIXED + key: value for key, value in lowrank.fresh(net.sites, seed, version, like, "both").items()}


def _trained(train: Params) -> Params:
    return {key: value for key, value in train.items() if not key.startswith(FIXED)}


def _begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    return down.shared | _fixed(net, down.seed, down.version, down.shared)


def _expand(net: Net, train: Params, down: Down) -> Params:
    """Return factors of rank 2r, ([L̃ L], [R; R̃])."""
    whole = _trained(train)
    for site in net.sites:
        whole[site.a] = torch.cat([train[site.a], train[FIXED + site.a]])
        whole[site.b] = torch.cat([train[FIXED + site.b], train[site.b]], dim=1)
    return whole


def _server(interval: float, net: Net, state: State, total: Total) -> State:
    state = average(net, state, total)
    if not is_merge_round(interval, state.round):
        return state
    live = live_factors(net, state)
    increment = _expand(net, live | _fixed(net, state.seed, state.version, live), Down({}))
    return _reset(net, merged(net, state, increment))


def _values(interval: float, net: Net, round: int) -> Values:
    increment = 2 * sum(site.values() for site in net.sites) if is_merge_round(interval, round) else 0
    return lora_values(net, factors_down=True, increment=increment)
