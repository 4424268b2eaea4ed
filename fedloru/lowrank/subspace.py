"""Subspaces of Rⁿ: how far two of them agree, and how far two would by chance.

For orthonormal bases X (n, p) and Y (n, q), the singular values of XᵀY are the cosines of the principal angles
(Björck and Golub, Mathematics of Computation 27, 1973), and ::

    overlap = ‖XᵀY‖_F² / min(p, q)        the mean cos² of the angles: 1 if one holds the other, 0 if orthogonal

If one of the two is drawn uniformly, its projection is P = QDQᵀ with Q Haar, E P = (p/n)·I, and ‖XᵀY‖_F² has mean
pq/n and variance 2pq(n − p)(n − q) / (n²(n − 1)(n + 2)); for p = 1 it is a Beta(q/2, (n − q)/2) variable.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Chance(NamedTuple):
    """The mean and the standard deviation that chance alone would give."""

    mean: float
    deviation: float


def basis(matrix: Tensor) -> Tensor:
    """Return an orthonormal basis (n, rank) of the column space of ``matrix`` (n, m), the largest direction first."""
    u: Tensor
    u, sigma, _ = torch.linalg.svd(matrix, full_matrices=False)
    floor = max(matrix.shape) * torch.finfo(matrix.dtype).eps * sigma.max()
    return u[:, sigma > floor]


def principal_angles(x: Tensor, y: Tensor) -> Tensor:
    """Return the angles in radians between the spans of orthonormal (n, p) and (n, q), ascending, (min(p, q),)."""
    cosines: Tensor = torch.linalg.svdvals(x.T @ y)
    return cosines.clamp(max=1).arccos()


def overlap(x: Tensor, y: Tensor) -> float:
    """Return the mean cos² of the principal angles between orthonormal ``x`` (n, p) and ``y`` (n, q), 0 to 1."""
    return float((x.T @ y).square().sum()) / min(x.shape[1], y.shape[1])


def overlap_by_chance(n: int, p: int, q: int) -> Chance:
    """Return what ``overlap`` is for subspaces of Rⁿ of dimensions p and q of which one is uniformly random."""
    if n == 1:
        return Chance(1.0, 0.0)
    variance = 2 * p * q * (n - p) * (n - q) / (n**2 * (n - 1) * (n + 2))
    return Chance(max(p, q) / n, math.sqrt(variance) / min(p, q))
