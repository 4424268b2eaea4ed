"""The algebra of low-rank factors, as pure functions over ``Params``.

The products of the clients are never formed individually ("no dense sums"): Σ_k p_k B_k A_k is the single product
[p_1 B_1 … p_K B_K] [A_1; …; A_K], and its SVD is computed from the small cores of two QR factorizations.
Functions compute in float32 or wider and cast the result once.
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
    """Return s·BA in the shape of the weight, in float32 or wider.

    The product is computed in float64 and rounded once. Rounding removes the last bits, which depend on the number of
    threads, the processor and the memory layout, so every machine merges the same increment: catch-up is bit-exact.
    """
    a, b = matrices(site, params)
    work = torch.float32 if a.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    product = site.scale * (b.to(work).contiguous() @ a.to(work).contiguous())
    return product.to(torch.promote_types(a.dtype, torch.float32)).reshape(site.shape)


def merge(sites: Sequence[Site], base: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> Params:
    """Return ``base`` with s·BA added at every site; all other entries are the same tensor objects."""
    merged = dict(base)
    for site in sites:
        weight, change = base[site.weight], delta(site, factors)
        merged[site.weight] = (weight.to(change.dtype) + change).to(weight.dtype)
    return merged


def init_factors(
    sites: Sequence[Site],
    seed: int,
    version: int,
    like: Mapping[str, Tensor],
    init: Init = "a",
) -> Params:
    """Draw new factors from (seed, "fresh", version).

    Receivers can draw the same factors themselves, so they cost no bytes on the wire. A is Kaiming-uniform,
    U(-1/√i, 1/√i). B is 0, or U(-1/√r, 1/√r) with ``init="both"``, as in the published script of FedLoRU
    (arXiv 2409.12371). The factors have the dtype and the device of their entries in ``like``.
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
    """Return float32 zeros on the CPU, independent of the default dtype and device of the process."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def stack(sites: Sequence[Site], parts: Sequence[tuple[float, Mapping[str, Tensor]]]) -> Params:
    """Concatenate weighted factors along the rank axis, so that BA of the result is Σ_k w_k B_k A_k."""
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


def signs_of(b: Tensor) -> Tensor:
    """Return the signs (r,) that make the largest entry of every column of b (o, r) positive.

    A singular value decomposition leaves the sign of each pair of vectors open, and rounding decides it.
    """
    largest = b.gather(0, b.abs().argmax(0, keepdim=True))[0]
    return torch.where(largest < 0, -1.0, 1.0).to(b)


def truncate(site: Site, factors: Mapping[str, Tensor], rank: int) -> tuple[Params, float]:
    """Return the best approximation of BA by factors of ``rank``, and its relative error ‖BA - B'A'‖_F / ‖BA‖_F.

    With the thin QR factorizations B = Q_b R_b and Aᵀ = Q_a R_a, the SVD U Σ Vᵀ of R_b R_aᵀ gives the SVD of BA. The
    singular values are split evenly: B' = Q_b U √Σ and A' = √Σ Vᵀ Q_aᵀ (Eckart-Young).
    """
    a, b = matrices(site, factors)
    work = torch.promote_types(a.dtype, torch.float32)
    qa, ra = torch.linalg.qr(a.to(work).T)
    qb, rb = torch.linalg.qr(b.to(work))
    u, sigma, vt = torch.linalg.svd(rb @ ra.T, full_matrices=False)
    keep = min(rank, sigma.numel())
    root = sigma[:keep].sqrt()
    low_b = qb @ (u[:, :keep] * root)
    signs = signs_of(low_b)
    low_b, low_a = low_b * signs, ((signs * root)[:, None] * vt[:keep]) @ qa.T
    total = float(sigma.square().sum())
    error = math.sqrt(float(sigma[keep:].square().sum()) / total) if total > 0 else 0.0
    truncated = {
        site.a: low_a.to(a.dtype).reshape(site.a_shape(keep)),
        site.b: low_b.to(b.dtype).reshape(site.b_shape(keep)),
    }
    return truncated, error
