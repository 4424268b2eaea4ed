"""A random-matrix model of the Hessian over n examples: how its spectrum and stable rank depend on n.

The model, in N dimensions, for a true Hessian H with few nonzero eigenvalues λ::

    H_n = H + E_n,   E_n symmetric Gaussian: entries of variance σ²/n, and 2σ²/n on the diagonal (GOE)

The edge of the bulk is at 2c with c = σ√(N/n), and as N grows (Benaych-Georges and Nadakuditi, "The eigenvalues and
eigenvectors of finite, low rank perturbations of large random matrices", Advances in Mathematics 227, 2011)::

    outlier        λ + c²/λ                         if |λ| > c, else none: the eigenvalue is hidden in the bulk
    ‖H_n‖₂         L + c²/L, or 2c if L ≤ c         L = ‖H‖₂
    E ‖H_n‖_F²     ‖H‖_F² + N(N + 1)σ²/n            exactly

The last two give the stable rank ‖H_n‖_F²/‖H_n‖₂². Let s be the stable rank of H and x = c²/L². Then that of H_n is
(s + (N + 1)x)/(1 + x)² for x ≤ 1 and (N + 1)/4 + s/(4x) for x ≥ 1. Setting its derivative to 0 gives
``turning_point``:

    s < (N + 1)/2    **decreases with n** for n > n* = Nσ²/(L²(1 − 2s/(N + 1))), from a height of about N/4;
                     below n*, where the top eigenvalue is close to the bulk, it increases slightly with n
    s ≥ (N + 1)/2    **increases with n** for every n: noise cannot raise a stable rank that is already this high

Two facts hold without the model. For independent examples, E ‖H_n‖_F² = ‖H‖_F² + v/n, where v is the variance of one
example's Hessian; ``fit`` estimates σ from this line alone. And E ‖H_n‖₂ never increases with n, since H_n is the mean
of the Hessians over n − 1 of its examples and a norm is convex. So numerator and denominator both decrease, and which
decreases faster depends on the model: if every example's Hessian is a multiple of one matrix, the stable rank is the
same for every n.

**The noise of a real Hessian is not a GOE.** An example's Hessian has low rank (the Gauss-Newton part has at most one
per class), so H_n resembles a Wishart matrix, whose rank is at most n times as large. Its noise is largest in the
directions in which H is large, and need not be Gaussian. The model spreads the same v evenly over all N dimensions,
which for N in the thousands leaves ‖H_n‖₂ almost unchanged: c² = v/(n(N + 1)). ``compare`` compares the model with
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
    """A summary of a spectrum: the ``edge`` of the bulk, the ``outliers`` beyond it, ‖H‖_F², ‖H‖₂ and stable rank."""

    edge: float
    outliers: tuple[float, ...]
    squared: float
    norm: float
    stable_rank: float


class Fit(NamedTuple):
    """A fitted line ‖H_n‖_F² = ``squared`` + v/n: the σ implied by v, ‖H‖_F², and the RMS relative residual."""

    sigma: float
    squared: float
    residual: float


def predict(eigenvalues: Sequence[float], sigma: float, n: int, size: int, squared: float | None = None) -> Spectrum:
    """Return the model's prediction for H_n over n examples in ``size`` dimensions.

    Outliers are in the order of ``eigenvalues``. ``squared`` is ‖H‖_F² (default: the sum of squared ``eigenvalues``);
    pass it if H has further eigenvalues that are not known.
    """
    c = sigma * math.sqrt(size / n)
    largest = max(map(abs, eigenvalues), default=0.0)
    norm = largest + c**2 / largest if largest > c else 2 * c
    true = sum(value**2 for value in eigenvalues) if squared is None else squared
    noisy = true + size * (size + 1) * sigma**2 / n
    outliers = tuple(value + c**2 / value for value in eigenvalues if abs(value) > c)
    return Spectrum(2 * c, outliers, noisy, norm, noisy / norm**2)


def simulate(eigenvalues: Sequence[float], sigma: float, n: int, size: int, seed: int) -> Spectrum:
    """Return the spectrum of one draw of H_n; outliers are eigenvalues of magnitude above 1.05 times the edge."""
    truth = torch.zeros(size, dtype=torch.float64)
    truth[: len(eigenvalues)] = torch.tensor(eigenvalues, dtype=torch.float64)
    noise = sigma / math.sqrt(n) * goe(size, seed)
    drawn = torch.linalg.eigvalsh(torch.diag(truth) + noise)  # E is invariant under rotations, so H may be diagonal
    edge = 2 * sigma * math.sqrt(size / n)
    outside = drawn[drawn.abs() > 1.05 * edge]
    squared, norm = float(drawn.square().sum()), float(drawn.abs().max())
    return Spectrum(edge, tuple(sorted(outside.tolist(), reverse=True)), squared, norm, squared / norm**2)


class Compared(NamedTuple):
    """The stable rank over a number of examples, measured and predicted by the model."""

    examples: int
    measured: float
    predicted: float


def compare(examples: Sequence[int], squared: Sequence[float], norms: Sequence[float], size: int) -> list[Compared]:
    """Compare measured ‖H_n‖_F² (``squared``) and ‖H_n‖₂ (``norms``) in ``size`` dimensions with the model.

    σ and ‖H‖_F² are fitted to ``squared`` alone, and ‖H‖₂ is recovered from the norm over the most examples. The norms
    over fewer examples, and hence their stable ranks, are predictions.

    Raises:
        FedloruError: all measurements have the same number of examples, or the norm over the most examples is inside
            the bulk.
    """
    line = fit(examples, squared, size)
    most = max(range(len(examples)), key=lambda index: examples[index])
    edge = predict([], line.sigma, examples[most], size).edge
    largest = recover(norms[most], edge)
    if largest is None:
        raise FedloruError(
            f"‖H‖₂ = {norms[most]:g} over {examples[most]} examples is inside the bulk of the noise, which ends at "
            f"{edge:g}, so it cannot be distinguished from noise: use more examples"
        )
    predictions = [predict([largest], line.sigma, n, size, line.squared).stable_rank for n in examples]
    rows = zip(examples, squared, norms, predictions, strict=True)
    return [Compared(n, square / norm**2, predicted) for n, square, norm, predicted in rows]


def goe(size: int, seed: int) -> Tensor:
    """Draw a symmetric (size, size) matrix of independent Gaussian entries of variance 1, and 2 on the diagonal."""
    g = torch.randn(size, size, generator=gen(seed, "goe"), dtype=torch.float64)
    return (g + g.T) / math.sqrt(2)


def turning_point(eigenvalues: Sequence[float], sigma: float, size: int) -> float:
    """Return n*, above which the model's stable rank decreases with n; ``inf`` if it never does."""
    largest = max(map(abs, eigenvalues))
    stable = sum(value**2 for value in eigenvalues) / largest**2
    share = 1 - 2 * stable / (size + 1)
    return size * sigma**2 / (largest**2 * share) if share > 0 else math.inf


def recover(outlier: float, edge: float) -> float | None:
    """Return the eigenvalue λ whose outlier is λ + c²/λ for a bulk that ends at ``edge`` = 2c; None inside the bulk."""
    if abs(outlier) <= edge:
        return None
    return (outlier + math.copysign(math.sqrt(outlier**2 - edge**2), outlier)) / 2


def fit(examples: Sequence[int], squared: Sequence[float], size: int) -> Fit:
    """Fit ‖H‖_F² and σ to ``squared`` norms ‖H_n‖_F² measured over different numbers of ``examples``.

    The fit is linear in 1/n and minimizes squared relative errors. If the norms do not decrease with n, σ is 0.

    Raises:
        FedloruError: all measurements have the same number of examples.
    """
    if len(set(examples)) < 2:
        raise FedloruError(
            f"cannot fit σ, because all Hessians are over {examples[0]} examples: use at least two different numbers"
        )
    n, y = (torch.tensor(values, dtype=torch.float64) for values in (examples, squared))
    columns = torch.stack([1 / y, 1 / (n * y)], 1)
    intercept, slope = torch.linalg.lstsq(columns, torch.ones_like(y)[:, None]).solution.flatten().tolist()
    residual = float((columns @ torch.tensor([intercept, slope], dtype=torch.float64) - 1).square().mean().sqrt())
    return Fit(math.sqrt(max(slope, 0.0) / (size * (size + 1))), intercept, residual)
