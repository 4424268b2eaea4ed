"""The Hessian of a loss over n examples as a random matrix: what n does to its spectrum and its stable rank.

The model, in N dimensions, for a true Hessian H of few eigenvalues λ that are not 0::

    H_n = H + E_n,   E_n symmetric Gaussian: entries of variance σ²/n, and 2σ²/n on the diagonal (GOE)

With the edge of the bulk at 2c, c = σ√(N/n), as N grows (Benaych-Georges and Nadakuditi, "The eigenvalues and
eigenvectors of finite, low rank perturbations of large random matrices", Advances in Mathematics 227, 2011)::

    outlier        λ + c²/λ                         if |λ| > c, else none: the eigenvalue is lost in the bulk
    ‖H_n‖₂         L + c²/L, or 2c if L ≤ c         L = ‖H‖₂
    E ‖H_n‖_F²     ‖H‖_F² + N(N + 1)σ²/n            exactly

and from the last two the stable rank ‖H_n‖_F²/‖H_n‖₂². Let s be that of H and x = c²/L². Then it is
(s + (N + 1)x)/(1 + x)² for x ≤ 1 and (N + 1)/4 + s/(4x) beyond, and setting its derivative to 0 (``turning_point``):

    s < (N + 1)/2    **it falls with n** for n > n* = Nσ²/(L²(1 − 2s/(N + 1))), from a height of about N/4;
                     below n*, where the top eigenvalue is about to be lost in the bulk, it rises with n a little
    s ≥ (N + 1)/2    **it rises with n** for every n: noise cannot add rank to what has it already

Two facts need no model. For independent examples E ‖H_n‖_F² = ‖H‖_F² + v/n, v the variance of one example's Hessian;
``fit`` estimates σ from that line alone. And E ‖H_n‖₂ never rises with n, since H_n is the mean of Hessians over
n − 1 of its examples and a norm is convex. So numerator and denominator both fall, and only a model decides which
falls faster: if every example's Hessian is a multiple of one matrix, the stable rank is the same for every n.

**The noise of a real Hessian is not a GOE.** An example's Hessian has low rank (its Gauss-Newton part at most one for
each class), so that H_n is rather like a Wishart matrix, of rank at most n times that; its noise is largest in the
directions in which H is large, and need not be Gaussian. The model spreads the same v evenly over all N dimensions,
which for N in the thousands leaves ‖H_n‖₂ almost as it was: c² = v/(n(N + 1)). ``compare`` holds it against
measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.errors import FedloruError
from fedloru.rng import gen


class Spectrum(NamedTuple):
    """What is told of a spectrum: ``edge`` of the bulk, ``outliers`` beyond it, and ‖H‖_F², ‖H‖₂ and stable rank."""

    edge: float
    outliers: tuple[float, ...]
    squared: float
    norm: float
    stable_rank: float


class Fit(NamedTuple):
    """A line ‖H_n‖_F² = ``squared`` + v/n, the σ that v stands for, and the root mean square relative residual."""

    sigma: float
    squared: float
    residual: float


def predict(eigenvalues: Sequence[float], sigma: float, n: int, size: int, squared: float | None = None) -> Spectrum:
    """Return what the model says of H_n in ``size`` dimensions, for n examples; outliers in the order of eigenvalues.

    ``squared`` is ‖H‖_F², where H has more than the ``eigenvalues`` that are known.
    """
    c = sigma * math.sqrt(size / n)
    largest = max(map(abs, eigenvalues), default=0.0)
    norm = largest + c**2 / largest if largest > c else 2 * c
    true = sum(value**2 for value in eigenvalues) if squared is None else squared
    noisy = true + size * (size + 1) * sigma**2 / n
    outliers = tuple(value + c**2 / value for value in eigenvalues if abs(value) > c)
    return Spectrum(2 * c, outliers, noisy, norm, noisy / norm**2)


def simulate(eigenvalues: Sequence[float], sigma: float, n: int, size: int, seed: int) -> Spectrum:
    """Return what one draw of H_n shows; outliers are the eigenvalues more than 1.05 times the edge from 0."""
    truth = torch.zeros(size, dtype=torch.float64)
    truth[: len(eigenvalues)] = torch.tensor(eigenvalues, dtype=torch.float64)
    noise = sigma / math.sqrt(n) * goe(size, seed)
    found = torch.linalg.eigvalsh(torch.diag(truth) + noise)  # E has no preferred basis: take that of H
    edge = 2 * sigma * math.sqrt(size / n)
    outside = found[found.abs() > 1.05 * edge]
    squared, norm = float(found.square().sum()), float(found.abs().max())
    return Spectrum(edge, tuple(sorted(outside.tolist(), reverse=True)), squared, norm, squared / norm**2)


class Compared(NamedTuple):
    """The stable rank over so many examples, measured and by the model."""

    examples: int
    measured: float
    predicted: float


def compare(examples: Sequence[int], squared: Sequence[float], norms: Sequence[float], size: int) -> list[Compared]:
    """Hold measured ‖H_n‖_F² (``squared``) and ‖H_n‖₂ (``norms``) in ``size`` dimensions against the model.

    σ and ‖H‖_F² are fitted to ``squared`` alone, ‖H‖₂ is recovered from the norm over the most examples: the norms
    over fewer examples, and so their stable ranks, are predicted.

    Raises:
        FedloruError: all are over the same number of examples, or even the largest one is lost in the bulk.
    """
    line = fit(examples, squared, size)
    most = max(range(len(examples)), key=lambda place: examples[place])
    edge = predict([], line.sigma, examples[most], size).edge
    largest = recover(norms[most], edge)
    if largest is None:
        raise FedloruError(
            f"‖H‖₂ = {norms[most]:g} over {examples[most]} examples is inside the bulk of the noise, which ends at "
            f"{edge:g}: the model cannot tell it from noise; take more examples"
        )
    told = [predict([largest], line.sigma, n, size, line.squared).stable_rank for n in examples]
    return [Compared(n, f / b**2, p) for n, f, b, p in zip(examples, squared, norms, told, strict=True)]


def goe(size: int, seed: int) -> Tensor:
    """Draw a symmetric matrix (size, size) of independent Gaussian entries: variance 1, and 2 on the diagonal."""
    g = torch.randn(size, size, generator=gen(seed, "goe"), dtype=torch.float64)
    return (g + g.T) / math.sqrt(2)


def turning_point(eigenvalues: Sequence[float], sigma: float, size: int) -> float:
    """Return n*, above which the model's stable rank falls with n; ``inf`` where it never does."""
    largest = max(map(abs, eigenvalues))
    stable = sum(value**2 for value in eigenvalues) / largest**2
    share = 1 - 2 * stable / (size + 1)
    return size * sigma**2 / (largest**2 * share) if share > 0 else math.inf


def recover(outlier: float, edge: float) -> float | None:
    """Return the eigenvalue λ whose outlier is λ + c²/λ under a bulk that ends at ``edge`` = 2c; None inside it."""
    if abs(outlier) <= edge:
        return None
    return (outlier + math.copysign(math.sqrt(outlier**2 - edge**2), outlier)) / 2


def fit(examples: Sequence[int], squared: Sequence[float], size: int) -> Fit:
    """Fit ‖H‖_F² and σ to ``squared`` norms ‖H_n‖_F² measured over different numbers of ``examples``.

    Least squares of relative errors, linear in 1/n. Where norms do not fall with n, σ is 0.

    Raises:
        FedloruError: all are over the same number of examples.
    """
    if len(set(examples)) < 2:
        raise FedloruError(f"σ cannot be fitted to Hessians that are all over {examples[0]} examples: vary the number")
    n, y = (torch.tensor(values, dtype=torch.float64) for values in (examples, squared))
    columns = torch.stack([1 / y, 1 / (n * y)], 1)
    whole, slope = torch.linalg.lstsq(columns, torch.ones_like(y)[:, None]).solution.flatten().tolist()
    residual = float((columns @ torch.tensor([whole, slope], dtype=torch.float64) - 1).square().mean().sqrt())
    return Fit(math.sqrt(max(slope, 0.0) / (size * (size + 1))), whole, residual)
