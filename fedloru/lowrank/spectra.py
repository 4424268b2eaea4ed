"""Statistics of singular values and vectors: fractional ranks, and the overlap of two subspaces.

    stable rank        ‖M‖_F² / ‖M‖₂²
    effective rank     exp(−Σ p_j ln p_j),  p = σ/Σσ          (Roy and Vetterli, EUSIPCO 2007)

For orthonormal bases X (n, p) and Y (n, q), the singular values of XᵀY are the cosines of the principal angles
(Björck and Golub, Mathematics of Computation 27, 1973), and ::

    overlap = ‖XᵀY‖_F² / min(p, q)        the mean cos² of the angles: 1 if one contains the other, 0 if orthogonal

If one of the two is uniformly random, its projection is P = QDQᵀ with Q Haar, E P = (p/n)·I, and ‖XᵀY‖_F² has mean
pq/n and variance 2pq(n − p)(n − q) / (n²(n − 1)(n + 2)); for p = 1 it is a Beta(q/2, (n − q)/2) variable.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Chance(NamedTuple):
    """The mean and the standard deviation expected by chance."""

    mean: float
    deviation: float


def singular_values(matrix: Tensor) -> Tensor:
    """Return the singular values of ``matrix`` (o, i) in float64, ascending, from the smaller Gram matrix.

    Values below about 1e-8 of the largest are lost to rounding.
    """
    wide = matrix.double()
    values: Tensor = torch.linalg.eigvalsh(wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide)
    return values.clamp(min=0).sqrt()


def ranks(sigma: Tensor) -> dict[str, float]:
    """Return the ``stable`` and the ``effective`` rank from the singular values ``sigma``; both are 0 if all are 0."""
    largest = float(sigma.max())
    if largest == 0:
        return {"stable": 0.0, "effective": 0.0}
    entropy = torch.special.entr(sigma / sigma.sum()).sum()
    return {"stable": float(sigma.square().sum()) / largest**2, "effective": float(entropy.exp())}


def basis(matrix: Tensor) -> Tensor:
    """Return an orthonormal basis (n, rank) of the column space of ``matrix`` (n, m), by falling singular value."""
    u: Tensor
    u, sigma, _ = torch.linalg.svd(matrix, full_matrices=False)
    floor = max(matrix.shape) * torch.finfo(matrix.dtype).eps * sigma.max()
    return u[:, sigma > floor]


def principal_angles(x: Tensor, y: Tensor) -> Tensor:
    """Return the principal angles, (min(p, q),), between the spans of orthonormal ``x`` (n, p) and ``y`` (n, q).

    The angles are in radians and in ascending order.
    """
    cosines: Tensor = torch.linalg.svdvals(x.T @ y)
    return cosines.clamp(max=1).arccos()


def overlap(x: Tensor, y: Tensor) -> float:
    """Return the mean cos², from 0 to 1, of the principal angles between orthonormal ``x`` (n, p) and ``y`` (n, q)."""
    return float((x.T @ y).square().sum()) / min(x.shape[1], y.shape[1])


def overlap_beyond_chance(x: Tensor, y: Tensor) -> float | None:
    """Return (overlap − chance) / (1 − chance) of orthonormal ``x`` (n, p) and ``y`` (n, q): 0 by chance, at most 1.

    Return None if one of them spans the whole space or is empty: the overlap then carries no information.
    """
    n, p, q = x.shape[0], x.shape[1], y.shape[1]
    if not 0 < min(p, q) <= max(p, q) < n:
        return None
    chance = overlap_by_chance(n, p, q).mean
    return (overlap(x, y) - chance) / (1 - chance)


def overlap_by_chance(n: int, p: int, q: int) -> Chance:
    """Return the overlap expected of subspaces of Rⁿ of dimensions p and q, one of which is uniformly random."""
    if n == 1:
        return Chance(1.0, 0.0)
    variance = 2 * p * q * (n - p) * (n - q) / (n**2 * (n - 1) * (n + 2))
    return Chance(max(p, q) / n, math.sqrt(variance) / min(p, q))
