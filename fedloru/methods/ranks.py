"""Clients of different ranks: the rank and the scale of a site on a client with a given profile.

A profile ``(("rank", r_k),)`` limits the rank of every site to r_k; a client without a profile has the full rank. The
scale of a client's product is s_k = α/r_k. Relative to the site's scale s = α/r, its product therefore has a factor of
s_k/s = r/r_k; public code is known to omit this factor.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from fedloru.lowrank import Site
from fedloru.method import Down, Profile, Values
from fedloru.methods.blocks import count_dense
from fedloru.net import Net
from fedloru.tree import Params


def with_rank(rank: int) -> Profile:
    """Return the profile of a client that trains factors of at most rank ``rank``."""
    return (("rank", float(rank)),)


def rank_of(site: Site, profile: Profile) -> int:
    """Return r_k, the rank of ``site`` on a client with this profile."""
    return min(site.rank, int(dict(profile).get("rank", site.rank)))


def resized(net: Net, profile: Profile) -> tuple[Site, ...]:
    """Return the sites with the ranks r_k and the scales α/r_k of a client with this profile."""
    return tuple(_resize(site, rank_of(site, profile)) for site in net.sites)


def at_site_scale(site: Site, factors: Mapping[str, Tensor]) -> Params:
    """Return factors of any rank r_k, scaled so that s·BA with the scale of the site equals their s_k·BA."""
    ratio = site.rank / factors[site.a].shape[0]
    return {site.a: factors[site.a], site.b: factors[site.b] * ratio}


def scaled(net: Net, train: Params, down: Down) -> Params:
    """Return the forward parameters of a client whose products are s_k·BA; an ``expand`` for ``Method``."""
    own = [at_site_scale(site, train) for site in net.sites]
    return train | {key: value for factors in own for key, value in factors.items()}


def first_ranks(site: Site, factors: Mapping[str, Tensor], rank: int) -> Params:
    """Return the first ``rank`` rows of A and columns of B."""
    return {site.a: factors[site.a][:rank], site.b: factors[site.b][:, :rank]}


def cut(net: Net, down: Down, profile: Profile) -> Down:
    """Return ``down`` with the first r_k ranks of its factors."""
    shared = dict(down.shared)
    for site in net.sites:
        shared |= first_ranks(site, down.shared, rank_of(site, profile))
    return down._replace(shared=shared)


def padded(site: Site, key: str, factor: Tensor) -> Tensor:
    """Return a factor padded with zeros to the rank of the site."""
    axis = 0 if key == site.a else 1
    missing = site.rank - factor.shape[axis]
    return F.pad(factor, [0] * (2 * (factor.ndim - axis) - 1) + [missing])


def idle(net: Net) -> Params:
    """Return zero factors of rank 1, the minimum of a low-rank layer, for a model with dense weights."""
    zeros: Params = {}
    for site in net.sites:
        zeros[site.a] = net.params[site.a].new_zeros(site.a_shape(1))
        zeros[site.b] = net.params[site.b].new_zeros(site.b_shape(1))
    return zeros


def values(net: Net, profile: Profile, *, drawn: bool = False) -> Values:
    """Count r_k(o + i) per site, and θ, in both directions; ``drawn`` factors are fresh, and are not sent down."""
    rest = count_dense(net, net.trainable - net.factors)
    factors = {"factors": sum(site.values(rank_of(site, profile)) for site in net.sites)}
    return Values(rest | ({"factors": 0} if drawn else factors), rest | factors)


def _resize(site: Site, rank: int) -> Site:
    return site._replace(rank=rank, scale=site.scale * site.rank / rank)
