"""Increments: factors that are merged into weights, and the one increment that many of them make together.

W₀ + s₁·B₁A₁ + … + s_j·B_jA_j is W₀ + [s₁B₁ … s_jB_j][A₁; …; A_j]: what was learnt in j cycles of rank r is one adapter
of rank j·r.
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
    """Factors, and the sites that say which weights they belong to, at which rank and scale."""

    sites: tuple[Site, ...]
    factors: Params


def increment(sites: Iterable[Site], params: Mapping[str, Tensor]) -> Increment:
    """Return the factors of ``sites`` in ``params``, which may have them at another rank."""
    ranked = tuple(site._replace(rank=len(params[site.a])) for site in sites)
    return Increment(ranked, tree.select(params, (key for site in ranked for key in site.keys)))


def together(increments: Sequence[Increment]) -> Increment:
    """Return one increment of scale 1 whose product is the sum of all, rank beside rank, in float32 or better.

    Ranks that add nothing, such as those of fresh factors, are left out, and so are weights that have no others.
    """
    parts: dict[str, list[tuple[Site, Params]]] = {}
    for sites, factors in increments:
        for site in sites:
            parts.setdefault(site.weight, []).append((site, factors))
    pairs = [pair for each in parts.values() if (pair := _side_by_side(each)) is not None]
    return Increment(tuple(site for site, _ in pairs), {key: t for _, pair in pairs for key, t in pair.items()})


def shortened(whole: Increment, rank: int) -> tuple[Increment, dict[str, float]]:
    """Return the best increment of ``rank`` at every weight, and the relative errors ‖BA − B'A'‖_F / ‖BA‖_F.

    The weights are those whose rank is higher; all others stay as they are, and have no error.
    """
    sites, factors, errors = list(whole.sites), dict(whole.factors), {}
    for place, site in enumerate(sites):
        if site.rank <= rank:
            continue
        wide = tree.map(lambda t: t.double(), tree.select(factors, site.keys))
        best, errors[site.weight] = truncate(site, wide, rank)
        factors |= tree.cast_like(best, factors)
        sites[place] = site._replace(rank=len(best[site.a]))
    return Increment(tuple(sites), factors), errors


def _side_by_side(parts: Sequence[tuple[Site, Params]]) -> tuple[Site, Params] | None:
    pairs = [(matrices(site, factors), site.scale) for site, factors in parts]
    work = torch.promote_types(pairs[0][0][0].dtype, torch.float32)
    a = torch.cat([a.to(work) for (a, _), _ in pairs])
    b = torch.cat([(scale * b.double()).to(work) for (_, b), scale in pairs], 1)
    used = (a != 0).any(1) & (b != 0).any(0)
    if not used.any():
        return None
    site = parts[0][0]._replace(rank=int(used.sum()), scale=1.0)
    return site, {site.a: a[used].reshape(site.a_shape()), site.b: b[:, used].reshape(site.b_shape())}
