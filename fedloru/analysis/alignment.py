"""Agreement of client gradients, for full gradients and their low-rank approximations.

For the gradients A, B (o, i) of two clients at one weight and their best rank-r approximations (Eckart-Young)::

    cos_r(A, B) = <A_r, B_r> / (‖A_r‖ ‖B_r‖),     r = min(o, i) gives the cosine of the full gradients

Park and Klabjan (arXiv 2409.12371) argue that the low-rank approximations agree better. A higher cosine means little by
itself, so four more quantities are computed:

    gain      cos_r minus the cosine of the full gradients, pair by pair
    chance    the expected spread of the cosine for independent gradients with the same singular values
    energy    the mean share ‖A_r‖²/‖A‖² that the truncation keeps
    shared    the mean of <A_r, B_r> divided by the mean of <A, B>: the share of the agreement that is kept

**Chance.** Let A = UΣVᵀ have Haar-distributed singular vectors, as a Gaussian matrix has, and be independent of B.
Then <A_r, B_r> = Σ_jk σ_j τ_k P_jk Q_jk, where P and Q are blocks of independent Haar matrices of sizes o and i, with
E P_jk P_lm = δ_jl δ_km / o and E Q_jk Q_lm = δ_jl δ_km / i. Hence E cos_r = 0 and Var cos_r = 1/(o·i), exactly, for
every rank and all spectra: **truncation by itself changes neither the mean nor the variance of the cosine of unrelated
matrices.** Over several weights l, the variance is Σ_l a_l² b_l² / (o_l i_l) / (Σ a_l² · Σ b_l²) with a_l = ‖A_r‖ and
b_l = ‖B_r‖. Cosines of different pairs are uncorrelated, so the variance of their mean is the sum of their variances
divided by the squared number of pairs.

**A shared signal.** ``planted`` gives the cosines for a common rank-one signal under independent noise: truncation
raises the cosine if the signal is above a threshold, and takes it to 0 below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.errors import FedloruError
from fedloru.lowrank.spectra import overlap
from fedloru.tree import Params


class Gram(NamedTuple):
    """Inner products of the gradients of K clients at one o × i weight; ``products`` has shape (R + 1, K, K).

    Entry j holds the products of the approximations of rank ``ranks[j]``, the last entry those of the full gradients.
    """

    o: int
    i: int
    ranks: tuple[int, ...]
    products: Tensor


class Agreement(NamedTuple):
    """Agreement of K clients at ``rank`` (None: full gradients), as means over pairs of clients.

    ``error`` and ``gain_error`` are jackknife standard errors over clients (None for two clients). ``chance`` is the
    standard deviation of ``cosine`` around 0 for independent gradients. A zero gradient has cosine 0 with all others.
    ``shared`` is None if the inner products of the full gradients have mean 0.
    """

    rank: int | None
    cosine: float
    error: float | None
    gain: float
    gain_error: float | None
    chance: float
    energy: float
    shared: float | None


class Planted(NamedTuple):
    """Cosines of two matrices that share a rank-one signal: in full, and of their rank-one approximations."""

    whole: float
    rank_one: float


def grams(gradients: Sequence[Mapping[str, Tensor]], ranks: Iterable[int]) -> dict[str, Gram]:
    """Return the Gram tensors of every weight with two or more axes, reshaped to o × i·k·k, in float64.

    Raises:
        FedloruError: there are fewer than two clients.
    """
    if len(gradients) < 2:
        raise FedloruError(f"agreement needs the gradients of two or more clients, got {len(gradients)}")
    ascending = tuple(sorted(set(ranks)))
    matrices = {
        key: torch.stack([gradient[key].double().flatten(1) for gradient in gradients])
        for key, value in gradients[0].items()
        if value.ndim > 1
    }
    return {key: _gram(stacked, ascending) for key, stacked in matrices.items()}


def _gram(matrices: Tensor, ranks: tuple[int, ...]) -> Gram:
    u, sigma, vt = torch.linalg.svd(matrices, full_matrices=False)
    truncated = [(u[..., :r] * sigma[:, None, :r]) @ vt[:, :r] for r in ranks]
    rows = [stack.flatten(1) for stack in (*truncated, matrices)]
    return Gram(matrices.shape[1], matrices.shape[2], ranks, torch.stack([matrix @ matrix.T for matrix in rows]))


def agreements(of: Iterable[Gram]) -> list[Agreement]:
    """Return the agreement of clients at each rank, with all weights in ``of`` concatenated into one vector."""
    layers = list(of)
    full = torch.stack([gram.products[-1] for gram in layers]).sum(0)
    return [
        _agreement(rank, [(gram.o * gram.i, gram.products[index]) for gram in layers], full)
        for index, rank in enumerate((*layers[0].ranks, None))
    ]


def _agreement(rank: int | None, layers: Sequence[tuple[int, Tensor]], full: Tensor) -> Agreement:
    """Return the agreement at one rank.

    ``layers`` holds the size and the Gram matrix (K, K) of each weight; ``full`` is the Gram matrix of full gradients.
    """
    products = torch.stack([gram for _, gram in layers]).sum(0)
    cosines = _cosines(products)
    energy = products.diagonal() / full.diagonal().clamp(min=torch.finfo(full.dtype).tiny)
    mean_product = float(_pairs(full).mean())
    return Agreement(
        rank,
        *jackknife(cosines),
        *jackknife(cosines - _cosines(full)),
        _chance(layers),
        float(energy.mean()),
        float(_pairs(products).mean()) / mean_product if mean_product else None,
    )


def _chance(layers: Sequence[tuple[int, Tensor]]) -> float:
    sizes = torch.tensor([size for size, _ in layers], dtype=torch.float64)
    squares = torch.stack([gram.diagonal() for _, gram in layers])  # (weights, K)
    total = squares.sum(0).clamp(min=torch.finfo(squares.dtype).tiny)
    variances = _pairs((squares.T / sizes) @ squares / total / total[:, None])
    return float(variances.sum().sqrt()) / len(variances)


def _cosines(products: Tensor) -> Tensor:
    norms = products.diagonal().sqrt().clamp(min=torch.finfo(products.dtype).tiny)
    return products / norms / norms[:, None]


def jackknife(values: Tensor) -> tuple[float, float | None]:
    """Return the mean of symmetric (K, K) ``values`` over pairs, and its leave-one-client-out standard error.

    Clients are left out rather than pairs, because pairs that share a client are not independent. The error is None
    for fewer than three clients.
    """
    clients = len(values)
    mean = float(_pairs(values).mean())
    if clients < 3:
        return mean, None
    remaining = [[other for other in range(clients) if other != client] for client in range(clients)]
    means = torch.stack([_pairs(values[rest][:, rest]).mean() for rest in remaining])
    return mean, math.sqrt((clients - 1) / clients * float((means - means.mean()).square().sum()))


def _pairs(values: Tensor) -> Tensor:
    row, column = torch.triu_indices(values.shape[0], values.shape[1], offset=1)
    return values[row, column]


def planted(theta: float, o: int, i: int) -> Planted:
    """Return the limits of the cosines for A = θ·uvᵀ + N_A and B = θ·uvᵀ + N_B as o and i grow.

    The noise has variance 1/i per entry. The cosine of the full matrices is θ²/(θ² + o). For rank one, with β = o/i,
    the leading singular vectors have squared cosines 1 − β(1 + θ²)/(θ²(θ² + β)) with u and
    1 − (β + θ²)/(θ²(θ² + 1)) with v if θ⁴ > β, else 0 (Benaych-Georges and Nadakuditi, Journal of Multivariate
    Analysis 111, 2012). They correlate with those of the other client only through u and v, so the cosine is the
    product of the two.
    """
    beta, square = o / i, theta**2
    full = square / (square + o)
    if square**2 <= beta:
        return Planted(full, 0.0)
    left = 1 - beta * (1 + square) / (square * (square + beta))
    right = 1 - (beta + square) / (square * (square + 1))
    return Planted(full, left * right)


def flat(gradients: Sequence[Params], keys: Iterable[str]) -> Tensor:
    """Return gradients as the rows of a (K, n) matrix in float64, with the entries of ``keys`` concatenated."""
    order = list(keys)
    return torch.stack([torch.cat([gradient[key].double().flatten() for key in order]) for gradient in gradients])


def shares(gradients: Tensor, eigenvectors: Tensor) -> list[float]:
    """Return the share ‖Vᵀg‖²/‖g‖² of each row g of (K, n) in the span of orthonormal ``eigenvectors`` (n, k).

    A random direction has the share ``overlap_by_chance(n, 1, k)``, k/n. The share of a zero gradient is 0.
    """
    tiny = torch.finfo(gradients.dtype).tiny
    return [overlap(row[:, None] / row.norm().clamp(min=tiny), eigenvectors) for row in gradients]
