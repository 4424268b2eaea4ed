"""The algebra of low-rank factors, as pure functions over ``Params``.

Products of many clients are never formed one by one: Σ_k p_k B_k A_k is the single product
[p_1 B_1 … p_K B_K] [A_1; …; A_K] (law 10), and its SVD is taken on the small cores of two QR factorisations.
Work is done in float32 or better and cast once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fedloru.lowrank.site import Site
from fedloru.rng import gen
from fedloru.tree import Params

Init = Literal["a", "both"]


def matrices(site: Site, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the factors of ``site`` as the matrices A (r, i) and B (o, r)."""
    return params[site.a].flatten(1), params[site.b].flatten(1)


def delta(site: Site, params: Mapping[str, Tensor]) -> Tensor:
    """Return s·BA in the shape of the weight, in float32 or better.

    The product is taken in float64 and rounded once: its last bits, which depend on the number of threads, the
    processor and the memory layout, are then rounded away, and every machine merges the same increment (law 4).
    """
    a, b = matrices(site, params)
    work = torch.float32 if a.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    product = site.scale * (b.to(work).contiguous() @ a.to(work).contiguous())
    return product.to(torch.promote_types(a.dtype, torch.float32)).reshape(site.shape)


def merge(sites: Sequence[Site], base: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> Params:
    """Return base + s·BA at every site; all other entries are the same tensors."""
    merged = dict(base)
    for site in sites:
        weight, change = base[site.weight], delta(site, factors)
        merged[site.weight] = (weight.to(change.dtype) + change).to(weight.dtype)
    return merged


def fresh(
    sites: Sequence[Site],
    seed: int,
    version: int,
    like: Mapping[str, Tensor],
    init: Init = "a",
) -> Params:
    """Draw new factors from (seed, "fresh", version), so that they cost no bytes on the wire.

    A is Kaiming-uniform, U(-1/√i, 1/√i); B is 0, or for ``init="both"`` U(-1/√r, 1/√r), as the published
    script of FedLoRU (arXiv 2409.12371) draws it. ``like`` gives dtype and device of the factors.
    """
    drawn: Params = {}
    for site in sites:
        g = gen(seed, "fresh", version, site.weight)
        a, b = _zeros(site.a_shape()), _zeros(site.b_shape())
        bound = 1 / math.sqrt(site.i)
        a.uniform_(-bound, bound, generator=g)
        if init == "both":
            bound = 1 / math.sqrt(site.rank)
            b.uniform_(-bound, bound, generator=g)
        drawn[site.a] = a.to(like[site.a])
        drawn[site.b] = b.to(like[site.b])
    return drawn


def _zeros(shape: tuple[int, ...]) -> Tensor:
    """Return zeros that are the same whatever the process has as its default dtype and device."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def stack(sites: Sequence[Site], parts: Sequence[tuple[float, Mapping[str, Tensor]]]) -> Params:
    """Concatenate weighted factors along the rank, so that B A of the result is Σ_k w_k B_k A_k."""
    stacked: Params = {}
    for site in sites:
        work = torch.promote_types(parts[0][1][site.b].dtype, torch.float32)
        stacked[site.a] = torch.cat([factors[site.a].to(work) for _, factors in parts], dim=0)
        stacked[site.b] = torch.cat([weight * factors[site.b].to(work) for weight, factors in parts], dim=1)
    return stacked


def concatenate(sites: Sequence[Site], x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Params:
    """Return factors whose product is the sum of the products of ``x`` and ``y``; either may be empty."""
    if not x or not y:
        return dict(x or y)
    return stack(sites, [(1.0, x), (1.0, y)])


def truncate(site: Site, factors: Mapping[str, Tensor], rank: int) -> tuple[Params, float]:
    """Return the best factors of ``rank`` for BA, and the relative error ‖BA - B'A'‖_F / ‖BA‖_F.

    With thin QR factorisations B = Q_b R_b and Aᵀ = Q_a R_a, the SVD of R_b R_aᵀ is that of BA. The singular
    values are shared evenly: B' = Q_b U √Σ and A' = √Σ Vᵀ Q_aᵀ (Eckart-Young).
    """
    a, b = matrices(site, factors)
    work = torch.promote_types(a.dtype, torch.float32)
    qa, ra = torch.linalg.qr(a.to(work).T)
    qb, rb = torch.linalg.qr(b.to(work))
    u, sigma, vt = torch.linalg.svd(rb @ ra.T, full_matrices=False)
    keep = min(rank, sigma.numel())
    root = sigma[:keep].sqrt()
    low_b = qb @ (u[:, :keep] * root)
    low_a = (root[:, None] * vt[:keep]) @ qa.T
    total = float(sigma.square().sum())
    error = math.sqrt(float(sigma[keep:].square().sum()) / total) if total > 0 else 0.0
    shaped = {
        site.a: low_a.to(a.dtype).reshape(site.a_shape(keep)),
        site.b: low_b.to(b.dtype).reshape(site.b_shape(keep)),
    }
    return shaped, error
