"""mFedLoRU: FedLoRU for clients of different capacity, which train low-rank updates of the factors.

Park and Klabjan, arXiv 2409.12371 (the variant is in the paper, but not in the published code)::

    client k of rank r_k < r   freezes the received A, B and trains nested pairs
        A_k = A + s_n·A_d A_u   (A_d: r × r_k, A_u: r_k × i)
        B_k = B + s_n·B_d B_u   (B_d: o × r_k, B_u: r_k × r)
    and sends r_k(r + i) + r_k(o + r) values in place of r(o + i); a client of rank r trains A, B directly
    server     computes A_k, B_k from the tensors that the client received and sent, then proceeds as in FedLoRU

A_d and B_d start at 0, and A_u and B_u at a draw from (seed, round); each round draws them again, so that the rounds of
a cycle explore different subspaces. The paper does not say which half starts at 0. A nested pair is a site on a factor,
so the same algebra applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Unpack

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.method import Down, Method, Profile, State, Total, Up, Values
from fedloru.methods.declare import method
from fedloru.methods.paper import Settings, paper
from fedloru.methods.ranks import rank_of
from fedloru.net import Net
from fedloru.rng import derive
from fedloru.settings.types import Positive
from fedloru.tree import Params


@method(
    trained="A, B or nested pairs",
    aggregate="inexact",
    rank="r·T/τ",
    source="2409.12371",
    cases={"": {"tau": 2, "nested_scale": 2.0}, "exact": {"tau": 2, "accumulate": "exact"}},
    extends=paper,
)
def mfedloru(*, nested_scale: Positive = 1.0, **settings: Unpack[Settings]) -> Method:
    """mFedLoRU: FedLoRU for clients of different ranks (lowrank.capacities), which train updates of the factors.

    Values up: r_k(r + i) + r_k(o + r) for each site on a client of rank r_k < r, and θ. Values down: as FedLoRU.

    Args:
        nested_scale: the scale s_n of the nested products.
        settings: the settings of FedLoRU.
    """
    inner = paper(**settings)
    return inner._replace(
        traits=inner.traits._replace(ranks="many"),
        begin=partial(_begin, nested_scale),
        expand=partial(_expand, nested_scale),
        reduce=partial(_reduce, nested_scale, inner),
        values=partial(_values, inner),
    )


def nested(site: Site, rank: int, scale: float) -> tuple[Site, Site]:
    """Return the nested pairs of a site's A and B as sites of rank r_k."""
    shapes = {site.a: site.a_shape(), site.b: site.b_shape()}
    a, b = (Site(key, f"{key}.u", f"{key}.d", shape, rank, scale) for key, shape in shapes.items())
    return a, b


def _begin(scale: float, net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    start = dict(down.shared)
    for site in net.sites:
        if (rank := rank_of(site, profile)) == site.rank:
            continue
        pairs = nested(site, rank, scale)
        like = {key: start[pair.weight] for pair in pairs for key in pair.keys}
        start = tree.omit(start, site.keys) | lowrank.init_factors(pairs, derive(down.seed, "nested"), down.round, like)
    return dict(sorted(start.items()))


def _expand(scale: float, net: Net, train: Params, down: Down) -> Params:
    """Return A_k, B_k and θ_k, in alphabetical order of their keys as in all messages."""
    whole = dict(train)
    for site in net.sites:
        for pair in nested(site, 0, scale):
            if pair.a in whole:
                a, b = whole.pop(pair.a), whole.pop(pair.b)
                whole[pair.weight] = down.shared[pair.weight] + scale * (b.flatten(1) @ a.flatten(1)).view(pair.shape)
    return dict(sorted(whole.items()))


def _reduce(
    scale: float, inner: Method, net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]
) -> Total:
    rebuilt = [up._replace(shared=_expand(scale, net, up.shared, down)) for up in ups]
    return inner.reduce(net, state, down, rebuilt, weights)


def _values(inner: Method, net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
    sent = 0
    for site in net.sites:
        rank = rank_of(site, profile)
        sent += site.values() if rank == site.rank else sum(pair.values() for pair in nested(site, rank, 1.0))
    counted = inner.values(net, round, cohort, profile)
    return counted._replace(up=counted.up | {"factors": sent})
