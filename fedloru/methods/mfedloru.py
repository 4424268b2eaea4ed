"""mFedLoRU: FedLoRU among clients of different capacity, by factors of the factors.

Park and Klabjan, arXiv 2409.12371 (the variant is in the paper, and not in the published code)::

    client k of rank r_k < r   freezes the received A, B and trains nested pairs
        A_k = A + s_n·A_d A_u   (A_d: r × r_k, A_u: r_k × i)
        B_k = B + s_n·B_d B_u   (B_d: o × r_k, B_u: r_k × r)
    and sends r_k(r + i) + r_k(o + r) values in place of r(o + i); a client of rank r trains A, B directly
    server     rebuilds A_k, B_k from what the client received and sent, then FedLoRU's

A_d and B_d start at 0, A_u and B_u at a draw from (seed, round), new in every round so that the rounds of a cycle
search different subspaces; the paper's text does not say which half starts at 0. A nested pair is a site of its own
on a factor: the same algebra serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Unpack

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.method import Down, Method, Profile, State, Total, Up, Values
from fedloru.methods.fedloru import Switches, fedloru
from fedloru.methods.ranks import rank_of
from fedloru.methods.settings import expect, extends, refuse
from fedloru.net import Net
from fedloru.rng import derive
from fedloru.tree import Params


@extends(fedloru)
def mfedloru(*, nested_scale: float = 1.0, **switches: Unpack[Switches]) -> Method:
    """Return mFedLoRU. Up: r_k(r + i) + r_k(o + r) values a site on a client of rank r_k < r, and θ.

    Args:
        nested_scale: the scale s_n of a nested product.
        switches: those of ``fedloru``.

    Raises:
        ConfigError: a setting is out of range.
    """
    refuse("mfedloru", expect(nested_scale > 0, "nested_scale", nested_scale, "a number above 0"))
    inner = fedloru(**switches)
    return inner._replace(
        name="mfedloru",
        ranks="many",
        config=inner.config | {"nested_scale": nested_scale},
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
        start = tree.omit(start, site.keys) | lowrank.fresh(pairs, derive(down.seed, "nested"), down.round, like)
    return dict(sorted(start.items()))


def _expand(scale: float, net: Net, train: Params, down: Down) -> Params:
    """Return A_k, B_k and θ_k, in the order of keys that all messages have."""
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
