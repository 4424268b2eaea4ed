"""Eigenvalues of a symmetric matrix that is given only by its products with vectors.

``largest`` finds the eigenpairs of largest magnitude with ARPACK (``scipy.sparse.linalg.eigsh``). ``quadrature`` runs
m Lanczos steps from v and returns the Ritz values θ_j and weights w_j with Σ w_j f(θ_j) = vᵀ f(H) v / vᵀv, which is
exact for polynomials f of degree below 2m. For random v this estimates the spectral density of H (stochastic Lanczos
quadrature: Ubaru, Chen & Saad, SIAM J. Matrix Anal. Appl. 2017; for deep nets Ghorbani et al., ICML 2019,
arXiv 1901.10159).

Differences to curvlinops' ``fast_lanczos``: the start vector is an argument, so it can be seeded and orthogonal to
deflated eigenvectors; the basis is reorthogonalized; and the iteration stops when the Krylov space is exhausted, which
happens early for a low-rank matrix and makes ``fast_lanczos`` divide by zero.
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
    raise MissingExtraError("scipy", "analysis", "rank analysis") from error

RESTARTS = 10
"""Maximum number of ARPACK restarts; eigenvalues not converged by then lie in a dense bulk, or are 0 up to rounding."""


class Symmetric(NamedTuple):
    """A symmetric (n, n) matrix, given by its product with a vector (n,)."""

    product: Callable[[Tensor], Tensor]
    n: int
    dtype: torch.dtype
    device: torch.device


class Pairs(NamedTuple):
    """Eigenvalues (k,) in float64, in order of descending magnitude, and eigenvectors (n, k)."""

    values: Tensor
    vectors: Tensor

    def first(self, k: int) -> Pairs:
        """Return the k pairs of largest magnitude."""
        order = self.values.abs().argsort(descending=True, stable=True)[:k]
        return Pairs(self.values[order], self.vectors[:, order])

    def above(self, size: float) -> Pairs:
        """Return the pairs of magnitude above ``size``."""
        kept = self.values.abs() > size
        return Pairs(self.values[kept], self.vectors[:, kept])

    def join(self, other: Pairs) -> Pairs:
        """Return the pairs of both, concatenated."""
        return Pairs(torch.cat([self.values, other.values]), torch.cat([self.vectors, other.vectors], 1))


class Quadrature(NamedTuple):
    """A discrete probability measure on the real line: nodes (m,) and weights (m,), in float64."""

    nodes: Tensor
    weights: Tensor


def draw(matrix: Symmetric, seed: int, *path: str | int) -> Tensor:
    """Return a vector (n,) of standard normal entries; it is the same for every dtype, up to rounding."""
    return torch.randn(matrix.n, generator=gen(seed, *path), dtype=torch.float64).to(matrix.device, matrix.dtype)


def deflated(matrix: Symmetric, vectors: Tensor) -> Symmetric:
    """Return PHP, where P = I - QQᵀ projects out the orthonormal columns Q of ``vectors`` (n, k)."""
    return matrix._replace(product=lambda v: project(matrix.product(project(v, vectors)), vectors))


def project(v: Tensor, vectors: Tensor) -> Tensor:
    """Return (I - QQᵀ)v for Q = ``vectors``."""
    return v - vectors @ (vectors.T @ v)


def largest(matrix: Symmetric, k: int, seed: int) -> Pairs:
    """Return the k < n eigenpairs of largest magnitude from ARPACK, to a residual of √ε|λ|.

    The error of an eigenvalue is quadratic in its residual, so it is of order ε. If not all converge, fewer than k
    pairs are returned. Copies of a multiple eigenvalue may be missing.

    Raises:
        ModelError: no eigenvalue converges.
    """
    start = draw(matrix, seed, "rank", "largest")
    if not matrix.product(start).any():  # with probability 1 this means H = 0, for which ARPACK fails
        return Pairs(torch.zeros(k, dtype=torch.float64), torch.eye(matrix.n, k).to(start))
    dtype = _numpy(start).dtype
    operator = LinearOperator((matrix.n, matrix.n), matvec=lambda v: _product(matrix, v), dtype=dtype)
    rng = np.random.default_rng(derive(seed, "rank", "restart"))
    tolerance, basis = float(np.sqrt(np.finfo(dtype).eps)), min(matrix.n, max(20, 3 * k))
    try:
        values, vectors = eigsh(operator, k, v0=_numpy(start), ncv=basis, tol=tolerance, maxiter=RESTARTS, rng=rng)
    except ArpackNoConvergence as partial:
        values, vectors = partial.eigenvalues, partial.eigenvectors
        if not len(values):
            raise ModelError(
                f"none of {k} eigenvalues converged in {RESTARTS} restarts: they are too close together. Request more "
                "eigenvalues, or compute in float64"
            ) from partial
    return Pairs(torch.from_numpy(values).double(), torch.from_numpy(vectors).to(start)).first(k)


def quadrature(matrix: Symmetric, start: Tensor, steps: int) -> Quadrature:
    """Return the Gauss quadrature of vᵀ f(H) v / vᵀv for v = ``start``, from at most ``steps`` products."""
    basis = start.new_zeros(steps, matrix.n)
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    scale = 0.0
    for step in range(steps):
        w = matrix.product(basis[step])
        scale = max(scale, float(w.norm()))
        diagonal.append(float(w @ basis[step]))
        for _ in range(2):  # the second pass removes the rounding error of the first
            w = project(w, basis[: step + 1].T)
        length = float(w.norm())
        if step + 1 == steps or length <= 10 * torch.finfo(matrix.dtype).eps * scale:
            break
        off_diagonal.append(length)
        basis[step + 1] = w / length
    nodes, vectors = eigh_tridiagonal(diagonal, off_diagonal)
    return Quadrature(torch.from_numpy(nodes), torch.from_numpy(vectors[0] ** 2))


def _product(matrix: Symmetric, v: np.ndarray) -> np.ndarray:
    return _numpy(matrix.product(torch.from_numpy(v.reshape(-1)).to(matrix.device)))


def _numpy(v: Tensor) -> np.ndarray:
    return v.cpu().numpy()
