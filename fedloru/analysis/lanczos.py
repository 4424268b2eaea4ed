"""Eigenvalues of a symmetric matrix that is known only by its products with vectors.

``largest`` asks ARPACK for the eigenpairs of largest magnitude (``scipy.sparse.linalg.eigsh``). ``quadrature`` is m
steps of Lanczos from v: the Ritz values θ_j and weights w_j with Σ w_j f(θ_j) = vᵀ f(H) v / vᵀv, exactly for
polynomials f of degree below 2m. From a random v, that is the spectral density of H (stochastic Lanczos quadrature:
Ubaru, Chen & Saad, SIAM J. Matrix Anal. Appl. 2017; for deep nets Ghorbani et al., ICML 2019, arXiv 1901.10159).

We differ from curvlinops' ``fast_lanczos``: the start is ours, so that it is seeded and free of what was deflated;
the basis stays orthogonal; and it stops where the Krylov space ends, as it soon does for a matrix of low rank, where
theirs divides by zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedloru.errors import MissingExtraError, ModelError
from fedloru.rng import derive, gen

try:
    from scipy.linalg import eigh_tridiagonal
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
except ImportError as error:
    raise MissingExtraError("scipy", "analysis", "the study of ranks") from error

RESTARTS = 10
"""ARPACK gives up after so many; what has not converged by then lies in a dense bulk, or is zero but for rounding."""


class Symmetric(NamedTuple):
    """A symmetric matrix (n, n) as its product with a vector (n,)."""

    product: Callable[[Tensor], Tensor]
    n: int
    dtype: torch.dtype
    device: torch.device


class Pairs(NamedTuple):
    """Eigenvalues (k,) in float64 from largest to smallest magnitude, and eigenvectors (n, k)."""

    values: Tensor
    vectors: Tensor

    def first(self, k: int) -> Pairs:
        """Return the k of largest magnitude."""
        order = self.values.abs().argsort(descending=True, stable=True)[:k]
        return Pairs(self.values[order], self.vectors[:, order])

    def above(self, size: float) -> Pairs:
        """Return those of magnitude above ``size``."""
        kept = self.values.abs() > size
        return Pairs(self.values[kept], self.vectors[:, kept])

    def join(self, other: Pairs) -> Pairs:
        """Return both."""
        return Pairs(torch.cat([self.values, other.values]), torch.cat([self.vectors, other.vectors], 1))


class Quadrature(NamedTuple):
    """A measure of mass 1 on the real line: nodes (m,) and weights (m,), in float64."""

    nodes: Tensor
    weights: Tensor


def draw(matrix: Symmetric, seed: int, *path: str | int) -> Tensor:
    """Return a random direction (n,) with standard normal entries; the same for every dtype, but for rounding."""
    return torch.randn(matrix.n, generator=gen(seed, *path), dtype=torch.float64).to(matrix.device, matrix.dtype)


def deflated(matrix: Symmetric, vectors: Tensor) -> Symmetric:
    """Return PHP, where P = I - QQᵀ takes away the orthonormal columns of ``vectors`` (n, k)."""
    return matrix._replace(product=lambda v: project(matrix.product(project(v, vectors)), vectors))


def project(v: Tensor, vectors: Tensor) -> Tensor:
    """Return (I - QQᵀ)v."""
    return v - vectors @ (vectors.T @ v)


def largest(matrix: Symmetric, k: int, seed: int) -> Pairs:
    """Return the k < n eigenpairs of largest magnitude that ARPACK finds, to a residual of √ε|λ|.

    An eigenvalue's error is quadratic in its residual, so it is of the order of ε. Fewer than k are returned where
    not all converge, and of a multiple eigenvalue, copies may be missing.

    Raises:
        ModelError: none converges.
    """
    start = draw(matrix, seed, "rank", "largest")
    if not matrix.product(start).any():  # with probability 1, only for H = 0, on which ARPACK fails
        return Pairs(torch.zeros(k, dtype=torch.float64), torch.eye(matrix.n, k).to(start))
    kind = _numpy(start).dtype
    operator = LinearOperator((matrix.n, matrix.n), matvec=lambda v: _product(matrix, v), dtype=kind)
    rng = np.random.default_rng(derive(seed, "rank", "restart"))
    tolerance, basis = float(np.sqrt(np.finfo(kind).eps)), min(matrix.n, max(20, 3 * k))
    try:
        values, vectors = eigsh(operator, k, v0=_numpy(start), ncv=basis, tol=tolerance, maxiter=RESTARTS, rng=rng)
    except ArpackNoConvergence as partial:
        values, vectors = partial.eigenvalues, partial.eigenvectors
        if not len(values):
            raise ModelError(
                f"none of {k} eigenvalues converged in {RESTARTS} restarts: they lie too close together. Ask for more, "
                "or compute in float64"
            ) from partial
    return Pairs(torch.from_numpy(values).double(), torch.from_numpy(vectors).to(start)).first(k)


def quadrature(matrix: Symmetric, start: Tensor, steps: int) -> Quadrature:
    """Return the Gauss quadrature of vᵀ f(H) v / vᵀv for v = ``start``, by up to ``steps`` products."""
    basis = start.new_zeros(steps, matrix.n)
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    scale = 0.0
    for step in range(steps):
        w = matrix.product(basis[step])
        scale = max(scale, float(w.norm()))
        diagonal.append(float(w @ basis[step]))
        for _ in range(2):  # once leaves what rounding has left of the basis
            w = project(w, basis[: step + 1].T)
        length = float(w.norm())
        if step + 1 == steps or length <= 10 * torch.finfo(matrix.dtype).eps * scale:
            break
        beside.append(length)
        basis[step + 1] = w / length
    nodes, vectors = eigh_tridiagonal(diagonal, beside)
    return Quadrature(torch.from_numpy(nodes), torch.from_numpy(vectors[0] ** 2))


def _product(matrix: Symmetric, v: np.ndarray) -> np.ndarray:
    return _numpy(matrix.product(torch.from_numpy(v.reshape(-1)).to(matrix.device)))


def _numpy(v: Tensor) -> np.ndarray:
    return v.cpu().numpy()
