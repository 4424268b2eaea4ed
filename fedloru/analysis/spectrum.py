"""The spectrum of a symmetric matrix from its products with vectors: largest eigenvalues, density, and stable rank.

The stable rank ‖H‖_F²/‖H‖₂² counts the directions in which H is large. With the eigenpairs (λ_i, q_i) of largest
magnitude, i ≤ k, and P = I - QQᵀ,

    ‖H‖_F² = Σ λ_i² + T,    T = ‖PHP‖_F² = m·E‖PHPv‖²,    v uniform on the unit sphere of P's range, m = n - k,

so only T is estimated, as the mean X of N probes (Hutchinson's estimator behind exact deflation, as in Hutch++:
Meyer et al., SOSA 2021, arXiv 2010.09649, from whom we differ in deflating by eigenvectors).

**The interval.** X is skewed where few eigenvalues dominate, and Student's t then covers too rarely. But no eigenvalue
of PHP exceeds |λ_k|, so with a = λ_k² the moment generating function of X is, by convexity, at most that of
a·χ²(NT/a)/N, and Chernoff's bound turns the set

    { T :  X - T + T ln(T/X)  ≤  2a ln(2/α)/N }

into an interval that holds with probability 1 - α or more for every such matrix and every N, without a normal
approximation. (For Gaussian v; on the sphere the function is smaller still, by Jensen.) N follows from a pilot that is
not in the mean; where the interval is still too wide, looks after the j-th with half as many again share the level as
α/2^j, so stopping when it is narrow enough does not spoil it. It takes |λ_k| for the norm of PHP: a run of Lanczos
on PHP, which also gives the density and the pilot, finds what ARPACK has missed.
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
    raise MissingExtraError("scipy", "analysis", "the study of ranks") from error

LEVEL = 0.99
"""The probability with which an interval covers the true value, or more."""

DENSE = 128
"""A matrix of this size or less is formed whole, by so many products, and nothing is estimated."""


class Effort(NamedTuple):
    """What a spectrum may cost.

    ``top`` eigenvalues are found; the density is the mean of ``runs`` of ``steps`` Lanczos steps; probes are added
    until the interval of the stable rank is within ``tolerance`` of the estimate on either side, ``probes`` at most.
    """

    top: int = 10
    steps: int = 30
    runs: int = 1
    tolerance: float = 0.1
    probes: int = 100
    seed: int = 0

    def exact(self, n: int) -> bool:
        """Say whether a matrix of size n is formed whole: that is then cheaper, or ARPACK could not serve."""
        return n <= max(DENSE, 2 * self.top)

    def check(self, n: int) -> None:
        """Refuse to find more eigenvalues than a matrix of size n has.

        Raises:
            ModelError: ``top`` is more than n, or less than 1.
        """
        if not 1 <= self.top <= n:
            raise ModelError(f"{self.top} eigenvalues were asked for, but there are {n:,}: ask for 1 to {n:,}")

    def products(self, n: int) -> int:
        """Return about how many products a spectrum of size n takes."""
        return n if self.exact(n) else 5 * self.top + self.runs * self.steps + 10


class Estimate(NamedTuple):
    """A value, and the ends of its interval at ``LEVEL``; they are equal where the value is exact."""

    value: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """How far the farther end is from the value, as a share of it."""
        return max(self.high - self.value, self.value - self.low) / self.value if self.value else 0.0

    def affine(self, factor: float, shift: float) -> Estimate:
        """Return factor · (estimate + shift), for a positive factor."""
        return Estimate(*(factor * (end + shift) for end in self))


class Spectrum(NamedTuple):
    """What is known of a matrix of size n.

    ``eigenvalues`` are those of largest magnitude, largest first; ``squared_norm`` is ‖H‖_F², and ``stable_rank``
    None for H = 0. ``density`` has n·weight eigenvalues at each node. ``reached`` says whether the interval is as
    narrow as was asked for.
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
        ModelError: more eigenvalues are asked for than there are.
    """
    effort.check(matrix.n)
    if effort.exact(matrix.n):
        return _exact(matrix, effort.top)
    pairs, rest = _deflate(matrix, effort)
    squares = float(pairs.values.square().sum())
    remainder, probes = _remainder(deflated(matrix, pairs.vectors), pairs, rest, squares, effort)
    share = len(pairs.values) / matrix.n
    nodes = torch.cat([pairs.values, rest.nodes])
    weights = torch.cat([torch.full_like(pairs.values, 1 / matrix.n), (1 - share) * rest.weights])
    total = remainder.affine(1.0, squares)
    reached = total.width <= effort.tolerance
    return _spectrum(matrix.n, pairs.values, total, Quadrature(nodes, weights), probes, reached)


def interval(mean: float, bound: float, probes: int, level: float = LEVEL) -> Estimate:
    """Return T with its interval, from the mean of ``probes`` probes of a matrix whose squared norm is ``bound``.

    The ends solve X - T + T ln(T/X) = 2a ln(2/α)/N. With T = X·e^(1+u) that is u·eᵘ = (c - 1)/e for c, the right
    side over X, so that Lambert's function has them on its two branches; for c ≥ 1 there is none below X but 0.
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
    """Return the largest eigenpairs, and the density of what is left of ``matrix`` without them.

    Of a multiple eigenvalue ARPACK may find one copy alone; where Lanczos still sees something larger than the
    smallest value found, by more than rounding, the rest is searched again.
    """
    pairs = largest(matrix, effort.top, effort.seed)
    rounding = math.sqrt(torch.finfo(matrix.dtype).eps) * float(pairs.values[0].abs())
    for _ in range(effort.top):
        rest = _density(deflated(matrix, pairs.vectors), pairs.vectors, effort)
        if float(rest.nodes.abs().max()) <= float(pairs.values[-1].abs()) + rounding:
            break
        again = largest(deflated(matrix, pairs.vectors), effort.top, effort.seed)
        # Q's columns are eigenvectors of PHP as well, to 0: they must not come twice.
        pairs = pairs.join(again.above(rounding)).first(effort.top)
    return pairs, rest


def _density(matrix: Symmetric, without: Tensor, effort: Effort) -> Quadrature:
    starts = (draw(matrix, effort.seed, "rank", "density", run) for run in range(effort.runs))
    runs = [quadrature(matrix, project(start, without), effort.steps) for start in starts]
    return Quadrature(torch.cat([run.nodes for run in runs]), torch.cat([run.weights / effort.runs for run in runs]))


def _remainder(
    matrix: Symmetric, pairs: Pairs, rest: Quadrature, squares: float, effort: Effort
) -> tuple[Estimate, int]:
    """Return T = ‖PHP‖_F² of the deflated ``matrix``, and the number of probes that were enough."""
    free = matrix.n - len(pairs.values)
    bound = float(torch.cat([rest.nodes, pairs.values[-1:]]).square().max())
    pilot = free * float(rest.weights @ rest.nodes.square())

    def narrow(estimate: Estimate) -> bool:
        return estimate.affine(1.0, squares).width <= effort.tolerance

    tries = range(1, effort.probes)
    wanted = next((count for count in tries if narrow(interval(pilot, bound, count, _level(1)))), effort.probes)
    seen: list[float] = []
    check = 0
    while True:
        check += 1
        seen += [free * _probe(matrix, pairs.vectors, effort.seed, number) for number in range(len(seen), wanted)]
        estimate = interval(sum(seen) / len(seen), bound, len(seen), _level(check))
        if narrow(estimate) or wanted == effort.probes:
            return estimate, len(seen)
        wanted = min(effort.probes, math.ceil(1.5 * wanted))


def _level(check: int) -> float:
    """Return the level of the j-th check; the levels' complements sum to that of ``LEVEL``."""
    return 1 - (1 - LEVEL) * 0.5**check


def _probe(matrix: Symmetric, without: Tensor, seed: int, number: int) -> float:
    v = project(draw(matrix, seed, "rank", "probe", number), without)
    return float(matrix.product(v / v.norm()).double().norm()) ** 2
