"""The spectrum of a symmetric matrix from its products with vectors: largest eigenvalues, density, and stable rank.

The stable rank ‖H‖_F²/‖H‖₂² counts the directions in which H is large. With the eigenpairs (λ_i, q_i) of largest
magnitude, i ≤ k, and P = I - QQᵀ,

    ‖H‖_F² = Σ λ_i² + T,    T = ‖PHP‖_F² = m·E‖PHPv‖²,    v uniform on the unit sphere of P's range, m = n - k,

so only T has to be estimated, as the mean X of N probes (Hutchinson's estimator after exact deflation, as in Hutch++:
Meyer et al., SOSA 2021, arXiv 2010.09649, but with deflation by eigenvectors).

**The interval.** X is skewed if few eigenvalues dominate, and Student's t interval then has too low coverage. However,
no eigenvalue of PHP exceeds |λ_k|, so with a = λ_k² the moment generating function of X is, by convexity, at most that
of a·χ²(NT/a)/N. By Chernoff's bound, the set

    { T :  X - T + T ln(T/X)  ≤  2a ln(2/α)/N }

is an interval that contains T with probability at least 1 - α, for every such matrix and every N, without a normal
approximation. (This is for Gaussian v; on the sphere the moment generating function is smaller still, by Jensen.)

The first N is chosen from a pilot estimate, which does not enter the mean. While the interval is too wide, N grows by
half, and the j-th check uses α/2^j, so stopping as soon as the interval is narrow enough keeps the coverage. The bound
assumes that ‖PHP‖₂ ≤ |λ_k|: a Lanczos run on PHP, which also gives the density and the pilot estimate, detects larger
eigenvalues that ARPACK has missed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.analysis.lanczos import Pairs, Quadrature, Symmetric, deflated, draw, largest, project, quadrature
from fedloru.errors import MissingExtraError, ModelError

try:
    from scipy.special import lambertw
except ImportError as error:
    raise MissingExtraError("scipy", "analysis", "rank analysis") from error

LEVEL = 0.99
"""The minimum probability that an interval contains the true value."""

DENSE = 128
"""Matrices up to this size are formed explicitly, with one product per row, and nothing is estimated."""


class Effort(NamedTuple):
    """Settings that determine the accuracy and the cost of a spectrum.

    ``top`` is the number of eigenvalues to find. The density is the mean of ``runs`` Lanczos runs of ``steps`` steps.
    Probes are added until the interval of the stable rank extends at most ``tolerance`` (relative to the estimate) to
    either side, up to ``probes``.
    """

    top: int = 10
    steps: int = 30
    runs: int = 1
    tolerance: float = 0.1
    probes: int = 100
    seed: int = 0

    def exact(self, n: int) -> bool:
        """Return whether to form a matrix of size n explicitly, because it is cheaper or ARPACK cannot be used."""
        return n <= max(DENSE, 2 * self.top)

    def check(self, n: int) -> None:
        """Check that a matrix of size n has ``top`` eigenvalues.

        Raises:
            ModelError: ``top`` is more than n, or less than 1.
        """
        if not 1 <= self.top <= n:
            raise ModelError(f"{self.top} eigenvalues requested, but the matrix has {n:,}: request 1 to {n:,}")

    def products(self, n: int) -> int:
        """Return approximately how many products a spectrum of size n takes."""
        return n if self.exact(n) else 5 * self.top + self.runs * self.steps + 10


class Estimate(NamedTuple):
    """A value and the ends of its interval at ``LEVEL``; all three are equal if the value is exact."""

    value: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """The distance from the value to the farther end, relative to the value."""
        return max(self.high - self.value, self.value - self.low) / self.value if self.value else 0.0

    def affine(self, factor: float, shift: float) -> Estimate:
        """Return factor · (estimate + shift) for a positive factor."""
        return Estimate(*(factor * (end + shift) for end in self))


class Spectrum(NamedTuple):
    """The measured spectrum of a matrix H of size n.

    ``eigenvalues`` are those of largest magnitude, largest first. ``squared_norm`` is ‖H‖_F². ``stable_rank`` is None
    for H = 0. ``density`` represents n·weight eigenvalues at each node. ``probes`` is the number of probes used, and
    ``reached`` tells whether the interval meets the requested tolerance.
    """

    n: int
    eigenvalues: tuple[float, ...]
    squared_norm: Estimate
    stable_rank: Estimate | None
    density: Quadrature
    probes: int
    reached: bool


def spectrum(matrix: Symmetric, effort: Effort = Effort()) -> Spectrum:  # noqa: B008  # a NamedTuple never changes
    """Return the spectrum of ``matrix``.

    Raises:
        ModelError: more eigenvalues are requested than the matrix has.
    """
    effort.check(matrix.n)
    if effort.exact(matrix.n):
        return _exact(matrix, effort.top)
    pairs, density = _deflate(matrix, effort)
    squares = float(pairs.values.square().sum())
    remainder, probes = _estimate_remainder(deflated(matrix, pairs.vectors), pairs, density, squares, effort)
    share = len(pairs.values) / matrix.n
    nodes = torch.cat([pairs.values, density.nodes])
    weights = torch.cat([torch.full_like(pairs.values, 1 / matrix.n), (1 - share) * density.weights])
    total = remainder.affine(1.0, squares)
    reached = total.width <= effort.tolerance
    return _spectrum(matrix.n, pairs.values, total, Quadrature(nodes, weights), probes, reached)


def interval(mean: float, bound: float, probes: int, level: float = LEVEL) -> Estimate:
    """Return T with its interval, from the mean of ``probes`` probes of a matrix whose squared 2-norm is ``bound``.

    The ends solve X - T + T ln(T/X) = 2a ln(2/α)/N. Substituting T = X·e^(1+u) gives u·eᵘ = (c - 1)/e, where c is the
    right side divided by X, so the ends are on the two branches of Lambert's W function. For c ≥ 1 the lower end is 0.
    """
    if not mean:
        return Estimate(0.0, 0.0, 0.0)
    c = 2 * bound * math.log(2 / (1 - level)) / (probes * mean)
    low, high = (mean * math.exp(1 + float(lambertw((c - 1) / math.e, branch).real)) for branch in (-1, 0))
    return Estimate(mean, low if c < 1 else 0.0, high)


def _exact(matrix: Symmetric, top: int) -> Spectrum:
    unit = torch.eye(matrix.n, dtype=matrix.dtype, device=matrix.device)
    whole = torch.stack([matrix.product(row) for row in unit]).double().cpu()
    values = torch.linalg.eigvalsh((whole + whole.T) / 2)
    total = float(values.square().sum())
    density = Quadrature(values, torch.full_like(values, 1 / matrix.n))
    first = values[values.abs().argsort(descending=True, stable=True)[:top]]
    return _spectrum(matrix.n, first, Estimate(total, total, total), density, 0, True)


def _spectrum(n: int, top: Tensor, total: Estimate, density: Quadrature, probes: int, reached: bool) -> Spectrum:
    norm = float(top[0].square())
    rank = total.affine(1 / norm, 0.0) if norm else None
    order = density.nodes.argsort(stable=True)
    return Spectrum(
        n, tuple(top.tolist()), total, rank, Quadrature(*(part[order] for part in density)), probes, reached
    )


def _deflate(matrix: Symmetric, effort: Effort) -> tuple[Pairs, Quadrature]:
    """Return the largest eigenpairs of ``matrix``, and the density of the deflated matrix.

    ARPACK may miss copies of a multiple eigenvalue. If Lanczos finds a value larger than the smallest eigenvalue found,
    by more than rounding, the deflated matrix is searched again.
    """
    pairs = largest(matrix, effort.top, effort.seed)
    rounding = math.sqrt(torch.finfo(matrix.dtype).eps) * float(pairs.values[0].abs())
    for _ in range(effort.top):
        density = _density(deflated(matrix, pairs.vectors), pairs.vectors, effort)
        if float(density.nodes.abs().max()) <= float(pairs.values[-1].abs()) + rounding:
            break
        missed = largest(deflated(matrix, pairs.vectors), effort.top, effort.seed)
        # Q's columns are also eigenvectors of PHP, with eigenvalue 0: they must not be counted twice.
        pairs = pairs.join(missed.above(rounding)).first(effort.top)
    return pairs, density


def _density(matrix: Symmetric, vectors: Tensor, effort: Effort) -> Quadrature:
    """Return the density of ``matrix`` on the orthogonal complement of ``vectors`` (n, k)."""
    starts = (draw(matrix, effort.seed, "rank", "density", run) for run in range(effort.runs))
    runs = [quadrature(matrix, project(start, vectors), effort.steps) for start in starts]
    return Quadrature(torch.cat([run.nodes for run in runs]), torch.cat([run.weights / effort.runs for run in runs]))


def _estimate_remainder(
    matrix: Symmetric, pairs: Pairs, density: Quadrature, squares: float, effort: Effort
) -> tuple[Estimate, int]:
    """Return T = ‖PHP‖_F² of the deflated ``matrix``, and the number of probes used."""
    dimension = matrix.n - len(pairs.values)
    bound = float(torch.cat([density.nodes, pairs.values[-1:]]).square().max())
    pilot = dimension * float(density.weights @ density.nodes.square())

    def narrow(estimate: Estimate) -> bool:
        return estimate.affine(1.0, squares).width <= effort.tolerance

    counts = range(1, effort.probes)
    target = next((count for count in counts if narrow(interval(pilot, bound, count, _level(1)))), effort.probes)
    samples: list[float] = []
    check = 0
    while True:
        check += 1
        numbers = range(len(samples), target)
        samples += [dimension * _probe(matrix, pairs.vectors, effort.seed, number) for number in numbers]
        estimate = interval(sum(samples) / len(samples), bound, len(samples), _level(check))
        if narrow(estimate) or target == effort.probes:
            return estimate, len(samples)
        target = min(effort.probes, math.ceil(1.5 * target))


def _level(check: int) -> float:
    """Return the level of the j-th check (from 1); the error probabilities sum to 1 - ``LEVEL``."""
    return 1 - (1 - LEVEL) * 0.5**check


def _probe(matrix: Symmetric, vectors: Tensor, seed: int, number: int) -> float:
    v = project(draw(matrix, seed, "rank", "probe", number), vectors)
    return float(matrix.product(v / v.norm()).double().norm()) ** 2
