"""Increments: factors that are merged into weights. Several increments can be combined into one.

W₀ + s₁·B₁A₁ + … + s_j·B_jA_j is W₀ + [s₁B₁ … s_jB_j][A₁; …; A_j]: the learned updates of j cycles of rank r are one
adapter of rank j·r.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.lowrank.algebra import matrices, truncate
from fedloru.lowrank.site import Site
from fedloru.tree import Params


class Increment(NamedTuple):
    """Factors, and their sites: the weights they belong to, their ranks and their scales."""

    sites: tuple[Site, ...]
    factors: Params


def increment(sites: Iterable[Site], params: Mapping[str, Tensor]) -> Increment:
    """Return the factors of ``sites`` in ``params``, at the rank that they have there."""
    ranked = tuple(site._replace(rank=len(params[site.a])) for site in sites)
    return Increment(ranked, tree.select(params, (key for site in ranked for key in site.keys)))


def combine(increments: Sequence[Increment]) -> Increment:
    """Combine increments into one increment of scale 1 whose product is the sum of theirs, in float32 or wider.

    The factors are concatenated along the rank axis. Ranks that contribute nothing, such as those of fresh factors,
    are dropped, as are weights without any other rank.
    """
    parts: dict[str, list[tuple[Site, Params]]] = {}
    for sites, factors in increments:
        for site in sites:
            parts.setdefault(site.weight, []).append((site, factors))
    combined = [pair for each in parts.values() if (pair := _concatenate(each)) is not None]
    return Increment(tuple(site for site, _ in combined), {key: t for _, pair in combined for key, t in pair.items()})


def truncate_increment(whole: Increment, rank: int) -> tuple[Increment, dict[str, float]]:
    """Truncate an increment to ``rank``, and return it with the relative errors ‖BA − B'A'‖_F / ‖BA‖_F by weight.

    Each factor pair of a higher rank is replaced by the best approximation of rank ``rank``. All others are kept as
    they are, and have no entry in the errors.
    """
    sites, factors, errors = list(whole.sites), dict(whole.factors), {}
    for index, site in enumerate(sites):
        if site.rank <= rank:
            continue
        wide = tree.map(lambda t: t.double(), tree.select(factors, site.keys))
        best, errors[site.weight] = truncate(site, wide, rank)
        factors |= tree.cast_like(best, factors)
        sites[index] = site._replace(rank=len(best[site.a]))
    return Increment(tuple(sites), factors), errors


def _concatenate(parts: Sequence[tuple[Site, Params]]) -> tuple[Site, Params] | None:
    pairs = [(matrices(site, factors), site.scale) for site, factors in parts]
    work = torch.promote_types(pairs[0][0][0].dtype, torch.float32)
    a = torch.cat([a.to(work) for (a, _), _ in pairs])
    b = torch.cat([(scale * b.double()).to(work) for (_, b), scale in pairs], 1)
    used = (a != 0).any(1) & (b != 0).any(0)
    if not used.any():
        return None
    site = parts[0][0]._replace(rank=int(used.sum()), scale=1.0)
    return site, {site.a: a[used].reshape(site.a_shape()), site.b: b[:, used].reshape(site.b_shape())}
