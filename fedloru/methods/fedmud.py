"""FedMUD: low-rank updates, merged and reset every interval, with or without aggregation-aware decomposition (AAD).

Li, Luo, Wang, Tang, Xu, Luo, Li, He, Li, "The Panaceas for Improving Low-Rank Decomposition in
Communication-Efficient Federated Learning", ICML 2025, arXiv 2505.23176::

    MUD         ΔW = U V
    MUD+AAD     ΔW = L̃ R + L R̃   with fixed random L̃ (o × r), R̃ (r × i) from (seed, version);  L = R = 0 at first
    clients     minimise f_k(W + s·ΔW; θ) over (U, V, θ) or (L, R, θ)
    server      means;  every interval:  W ← W + s·ΔW,  version += 1,  reset

Without AAD, this is ``fedloru(tau=interval)``, which draws V and sets U = 0. With AAD, ΔW is linear in the trained
factors, so the mean is exact. R is sent as A, and L as B; the layer and the increments use factors of rank 2r,
([L̃ L], [R; R̃]). An increment therefore costs 2r(o + i) values in a catch-up, although the client could draw half of
them. Other messages do not contain L̃ and R̃, but they do contain the zeros of a reset. Differences from the paper: s is
the site's α/r, 1 by default as in the paper, and the block-wise Kronecker decomposition (BKD) is not implemented.
"""

from __future__ import annotations

from functools import partial

import torch

from fedloru import lowrank, tree
from fedloru.method import Down, Method, Phase, Profile, State, Total, Up, Values, is_merge_round
from fedloru.methods import blocks
from fedloru.methods.blocks import UNPLANNED, OpenTau, Tau
from fedloru.methods.declare import method
from fedloru.methods.fedlora import fedlora
from fedloru.methods.paper import paper
from fedloru.net import Net
from fedloru.settings.types import Flag
from fedloru.tree import Params

FIXED = "fedmud."


@method(
    trained="L, R, merged every τ",
    aggregate="exact",
    rank="2r·T/τ",
    source="2505.23176",
    cases={"": {"interval": 2, "aad": False}, "aad": {"interval": 2}},
)
def fedmud(*, interval: OpenTau = None, aad: Flag = True) -> Method:
    """FedMUD: averages low-rank updates, and merges them into the model every interval.

    Values in each direction: r(o + i) for each site, and θ; down, without AAD, fresh factors are not sent.

    Args:
        interval: the number of rounds between merges, a list of merge rounds, or inf to never merge; by default a
            quarter of the rounds.
        aad: whether an update is the sum of two products that each have one fixed random factor, so that averages are
            exact (aggregation-aware decomposition).
    """
    if not aad:
        return paper(tau=interval)
    interval, inner = UNPLANNED if interval is None else interval, fedlora()
    return inner._replace(
        traits=inner.traits._replace(cycle=interval),
        init=lambda net, seed: _reset(net, blocks.init_low_rank(net, seed)),
        down=blocks.down,
        begin=_begin,
        expand=_expand,
        up=lambda net, train, down, client_state, steps: (Up(_trained(train)), client_state),
        phases=lambda net, train: (Phase(frozenset(_trained(train).keys() - net.buffers.keys())),),
        server=partial(_server, interval),
        values=lambda net, round, cohort, profile: _values(interval, net, round),
    )


def _reset(net: Net, state: State) -> State:
    return state._replace(shared=state.shared | tree.map(torch.zeros_like, blocks.current_factors(net, state)))


def _fixed(net: Net, seed: int, version: int, like: Params) -> Params:
    """Return L̃ and R̃ of the cycle after ``version`` merges."""
    drawn = lowrank.init_factors(net.sites, seed, version, like, "both")
    return {FIXED + key: value for key, value in drawn.items()}


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


def _server(interval: Tau, net: Net, state: State, total: Total) -> State:
    state = blocks.average(net, state, total)
    if not is_merge_round(interval, state.round):
        return state
    live = blocks.current_factors(net, state)
    increment = _expand(net, live | _fixed(net, state.seed, state.version, live), Down({}))
    return _reset(net, blocks.merged(net, state, increment))


def _values(interval: Tau, net: Net, round: int) -> Values:
    increment = 2 * sum(site.values() for site in net.sites) if is_merge_round(interval, round) else 0
    return blocks.low_rank_values(net, factors_down=True, increment=increment)
