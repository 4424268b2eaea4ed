"""Clients of different rank: what a profile says, and what follows for a site.

A profile ``(("rank", r_k),)`` caps the rank of every site at r_k; a client without one has the full rank. The scale
of a client's product is s_k = α/r_k, so that what it sends counts s_k/s = r/r_k times more in units of the site's own
scale s = α/r. Leaving that out when ranks differ is a known fault of public code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from fedloru.lowrank import Site
from fedloru.method import Down, Profile, Values
from fedloru.methods.fedavg import whole_counts
from fedloru.net import Net
from fedloru.tree import Params


def with_rank(rank: int) -> Profile:
    """Return the profile of a client that trains factors of ``rank`` at most."""
    return (("rank", float(rank)),)


def rank_of(site: Site, profile: Profile) -> int:
    """Return r_k, the rank of ``site`` on a client of this profile."""
    return min(site.rank, int(dict(profile).get("rank", site.rank)))


def resized(net: Net, profile: Profile) -> tuple[Site, ...]:
    """Return the sites with the ranks, and so the scales α/r_k, of a client of this profile."""
    return tuple(_resize(site, rank_of(site, profile)) for site in net.sites)


def at_site_scale(site: Site, factors: Mapping[str, Tensor]) -> Params:
    """Return factors of any rank r_k so that s·BA, with the site's own scale, is their s_k·BA."""
    ratio = site.rank / factors[site.a].shape[0]
    return {site.a: factors[site.a], site.b: factors[site.b] * ratio}


def scaled(net: Net, train: Params, down: Down) -> Params:
    """Return the forward parameters of a client whose products count s_k·BA; an ``expand`` for ``Method``."""
    own = [at_site_scale(site, train) for site in net.sites]
    return train | {key: value for factors in own for key, value in factors.items()}


def first_ranks(site: Site, factors: Mapping[str, Tensor], rank: int) -> Params:
    """Return the first ``rank`` rows of A and columns of B."""
    return {site.a: factors[site.a][:rank], site.b: factors[site.b][:, :rank]}


def cut(net: Net, down: Down, profile: Profile) -> Down:
    """Return a message whose factors are the first r_k ranks of those in ``down``."""
    shared = dict(down.shared)
    for site in net.sites:
        shared |= first_ranks(site, down.shared, rank_of(site, profile))
    return down._replace(shared=shared)


def padded(site: Site, key: str, factor: Tensor) -> Tensor:
    """Return a factor with ranks of 0 up to the rank of the site."""
    axis = 0 if key == site.a else 1
    missing = site.rank - factor.shape[axis]
    return F.pad(factor, [0] * (2 * (factor.ndim - axis) - 1) + [missing])


def idle(net: Net) -> Params:
    """Return factors of 0, of rank 1, for a model whose weights are dense: the least that a low-rank layer takes."""
    zeros: Params = {}
    for site in net.sites:
        zeros[site.a] = net.params[site.a].new_zeros(site.a_shape(1))
        zeros[site.b] = net.params[site.b].new_zeros(site.b_shape(1))
    return zeros


def values(net: Net, profile: Profile, *, drawn: bool = False) -> Values:
    """Count r_k(o + i) a site, and θ, each way; ``drawn`` factors are ranks of a fresh draw, and cost nothing down."""
    rest = whole_counts(net, net.trainable - net.factors)
    factors = {"factors": sum(site.values(rank_of(site, profile)) for site in net.sites)}
    return Values(rest | ({"factors": 0} if drawn else factors), rest | factors)


def _resize(site: Site, rank: int) -> Site:
    return site._replace(rank=rank, scale=site.scale * site.rank / rank)
