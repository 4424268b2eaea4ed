"""Clients of different rank: what a profile says, and what follows for a site.

A profile ``(("rank", r_k),)`` caps the rank of every site at r_k; a client without one has the full rank. The scale
of a client's product is s_k = α/r_k, so that what it sends counts s_k/s = r/r_k times more in units of the site's own
scale s = α/r. Leaving that out when ranks differ is a known fault of public code.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedloru.lowrank import Site
from fedloru.method import Profile
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


def _resize(site: Site, rank: int) -> Site:
    return site._replace(rank=rank, scale=site.scale * site.rank / rank)
