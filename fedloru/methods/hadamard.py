"""FedPara's factors of one weight: their keys and shapes, their product, and their initial values.

For a matrix, a pair consists of X (o, R) and Y (i, R), with the product XYᵀ. For a convolution, it also has a core
T (R, R, k, k), and the product is T ×₁ X ×₂ Y (Proposition 3 of arXiv 2108.06098).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedloru import tree
from fedloru.lowrank import Site
from fedloru.net import Net
from fedloru.rng import gen
from fedloru.tree import Params


def shapes(site: Site, n: str) -> dict[str, tuple[int, ...]]:
    """Return the keys and shapes of X, Y, and of T for a convolution, of pair ``n``."""
    o, i, *kernel = site.shape
    core = {f"{site.weight}.t{n}": (site.rank, site.rank, *kernel)} if kernel else {}
    return {f"{site.weight}.x{n}": (o, site.rank), f"{site.weight}.y{n}": (i, site.rank)} | core


def product(site: Site, train: Params, n: str) -> Tensor:
    """Return XYᵀ, or T ×₁ X ×₂ Y, of pair ``n``."""
    x, y, *core = (train[key] for key in shapes(site, n))
    return torch.einsum("abkl,oa,ib->oikl", core[0], x, y) if core else x @ y.mT


def he(net: Net, site: Site, seed: int, n: str, pairs: int) -> Params:
    """Draw one of ``pairs`` pairs, so that the elementwise product of them all has variance 2/i."""
    each, conv = (2 / site.i) ** (1 / pairs), len(site.shape) > 2
    sigma = (each / site.rank**2) ** (1 / 6) if conv else (each / site.rank) ** (1 / 4)
    like = net.params[site.weight]
    drawn = {key: torch.randn(shape, generator=gen(seed, "fedpara", key)) for key, shape in shapes(site, n).items()}
    return {key: (sigma * value).to(like) for key, value in drawn.items()}


def flat(net: Net, site: Site, seed: int, value: float) -> Params:
    """Return a second pair whose product is ``value`` everywhere, such that all of its ranks can be trained."""
    pair = he(net, site, seed, "2", 1)
    x, y, *core = pair
    pair[core[0] if core else y].zero_()
    if value:
        pair[x][:, 0], pair[y][:, 0] = 1.0, 1.0
        for t in core:
            pair[t][0, 0] = value
    return pair


def of_model(net: Net, site: Site, seed: int) -> Params:
    """Return the first pair as the truncated SVD, or for a convolution HOSVD, of the model's weight."""
    w, r = net.params[site.weight], site.rank
    wide = w.to(torch.promote_types(w.dtype, torch.float32))
    x, y, *core = shapes(site, "1")
    u, sigma, vt = torch.linalg.svd(wide.flatten(1), full_matrices=False)
    if not core:
        root = sigma[:r].sqrt()
        return {x: (u[:, :r] * root).to(w.dtype), y: (vt[:r].mT * root).to(w.dtype)}
    pair = tree.map(lambda t: t.to(wide.dtype), he(net, site, seed, "1", 1))
    second = torch.linalg.svd(wide.transpose(0, 1).flatten(1), full_matrices=False)[0][:, :r]
    pair[x], pair[y][:, : second.shape[1]] = u[:, :r], second
    pair[core[0]].zero_()[:, : second.shape[1]] = torch.einsum("oikl,oa,ib->abkl", wide, u[:, :r], second)
    return tree.map(lambda t: t.to(w.dtype), pair)
