"""Reference results as dense matrices: the forward weights of a model, and the exact mean of clients' products."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedloru import tree
from fedloru.evaluate import shared_model
from fedloru.method import NOTHING, Method, Profile, State, Up
from fedloru.methods.ranks import rank_of
from fedloru.net import Net
from fedloru.rng import gen
from tests.methods.cohort import WEIGHTS

FULL_RANK: tuple[Profile, ...] = ((), (), ())
ALPHA = 3.0


def forward_weights(net: Net, method: Method, state: State) -> tree.Params:
    """Return W + s·BA of every site of the shared model, computed with torch's matrix product."""
    model = shared_model(net, method, state)
    return {
        site.weight: model[site.weight].flatten(1) + site.scale * model[site.b].flatten(1) @ model[site.a].flatten(1)
        for site in net.sites
    }


def run_round(
    net: Net, method: Method, state: State, profiles: Sequence[Profile] = FULL_RANK, size: float = 0.3
) -> tuple[State, tree.Params, list[Up]]:
    """Run a round in which three clients add noise to the tensors that they train.

    Return the state after it, the exact mean of the weights, and the messages of the clients.

    The mean is Σ p_k (W + (α/r_k) B_k A_k), where W is the base before the round.
    """
    total, ups = NOTHING, []
    exact = {site.weight: torch.zeros(site.o, site.i, dtype=torch.float64) for site in net.sites}
    for client, (profile, weight) in enumerate(zip(profiles, WEIGHTS, strict=True)):
        down = method.down(net, state, profile)
        start = method.begin(net, down, {}, profile)
        keys = start.keys() - net.buffers.keys()
        if method.phases is not None:
            keys = frozenset().union(*(phase.keys for phase in method.phases(net, start)))
        g = gen(5, "noise", state.round, client)
        noise = {key: torch.randn(start[key].shape, generator=g).to(start[key]) for key in sorted(keys)}
        train = {key: value + size * noise[key] if key in keys else value for key, value in start.items()}
        up, _ = method.up(net, train, down, {}, 1)
        ups.append(up)
        own = down.shared | train
        for site in net.sites:
            a, b = own[site.a].flatten(1), own[site.b].flatten(1)
            assert len(a) == rank_of(site, profile)
            product = ALPHA / len(a) * torch.einsum("or,ri->oi", b, a)
            exact[site.weight] += weight / sum(WEIGHTS) * (state.base[site.weight].flatten(1) + product)
        total = total.join(method.reduce(net, state, down, [up], [weight]), net)
    return method.server(net, state, total), exact, ups


def max_difference(x: tree.Params, y: tree.Params) -> float:
    """Return the largest absolute difference of two trees."""
    return max(float((x[key] - y[key]).abs().max()) for key in x)
