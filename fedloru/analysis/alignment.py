"""How far the gradients of clients agree, whole and cut to low rank.

For gradients A, B (o, i) of two clients at one weight and their best approximations of rank r (Eckart-Young)::

    cos_r(A, B) = <A_r, B_r> / (‖A_r‖ ‖B_r‖),     r = min(o, i) gives the cosine of the whole gradients

Park and Klabjan (arXiv 2409.12371) argue that the low-rank approximations agree better. Four things are measured
beside the cosine, without which a rise says little:

    gain      cos_r less the cosine of the whole gradients, pair by pair
    chance    what independent gradients of the same singular values would give
    energy    the mean share ‖A_r‖²/‖A‖² that is left
    shared    the mean of <A_r, B_r> over that of <A, B>: what is left of the agreement itself

**Chance.** Let A = UΣVᵀ have Haar-distributed singular vectors, as a Gaussian matrix has, and be independent of B.
Then <A_r, B_r> = Σ_jk σ_j τ_k P_jk Q_jk with P and Q blocks of independent Haar matrices of sizes o and i, where
E P_jk P_lm = δ_jl δ_km / o and E Q_jk Q_lm = δ_jl δ_km / i. So E cos_r = 0 and Var cos_r = 1/(o·i), exactly, whatever
the rank and the spectra: **truncation alone neither raises nor widens the cosine of unrelated matrices.** Over several
weights l the variance is Σ_l a_l² b_l² / (o_l i_l) / (Σ a_l² · Σ b_l²) with a_l = ‖A_r‖, b_l = ‖B_r‖. Cosines of
different pairs are uncorrelated, so that the variance of their mean is the sum of theirs over their number squared.

**A shared signal.** ``planted`` says what a common rank-one part under independent noise gives: truncation lets the
cosine rise above a threshold of the signal, and fall to 0 below it.
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
    """Inner products of the gradients of K clients at one weight of o × i; ``products`` is (R + 1, K, K).

    Entry j is that of the approximations of rank ``ranks[j]``, the last that of the whole gradients.
    """

    o: int
    i: int
    ranks: tuple[int, ...]
    products: Tensor


class Agreement(NamedTuple):
    """How far K clients agree at ``rank`` (None: the whole gradients); means are over pairs of clients.

    ``error`` and ``gain_error`` are standard errors, by the jackknife over clients (None for two of them); ``chance``
    is the standard deviation that ``cosine`` has about 0 for independent gradients. A gradient of 0 agrees with none;
    ``shared`` is None where the whole gradients do not agree at all.
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
    """Cosines of two matrices that share a signal of rank one: whole, and of their approximations of rank one."""

    whole: float
    rank_one: float


def grams(gradients: Sequence[Mapping[str, Tensor]], ranks: Iterable[int]) -> dict[str, Gram]:
    """Return the Gram tensors of every weight with two axes or more, read as o × i·k·k, in float64.

    Raises:
        FedloruError: there are fewer than two clients.
    """
    if len(gradients) < 2:
        raise FedloruError(f"agreement was asked of {len(gradients)} clients: take gradients of two or more")
    steps = tuple(sorted(set(ranks)))
    matrices = {
        key: torch.stack([gradient[key].double().flatten(1) for gradient in gradients])
        for key, value in gradients[0].items()
        if value.ndim > 1
    }
    return {key: _gram(stacked, steps) for key, stacked in matrices.items()}


def _gram(matrices: Tensor, ranks: tuple[int, ...]) -> Gram:
    u, sigma, vt = torch.linalg.svd(matrices, full_matrices=False)
    cut = [(u[..., :r] * sigma[:, None, :r]) @ vt[:, :r] for r in ranks]
    flat = [each.flatten(1) for each in (*cut, matrices)]
    return Gram(matrices.shape[1], matrices.shape[2], ranks, torch.stack([each @ each.T for each in flat]))


def agreements(of: Iterable[Gram]) -> list[Agreement]:
    """Return how far clients agree at each rank, over all weights of ``of`` taken together as one vector."""
    layers = list(of)
    whole = torch.stack([gram.products[-1] for gram in layers]).sum(0)
    return [
        _agreement(rank, [(gram.o * gram.i, gram.products[place]) for gram in layers], whole)
        for place, rank in enumerate((*layers[0].ranks, None))
    ]


def _agreement(rank: int | None, layers: Sequence[tuple[int, Tensor]], whole: Tensor) -> Agreement:
    """Return one row; ``layers`` has size and Gram matrix (K, K) of each weight, ``whole`` that of whole gradients."""
    products = torch.stack([gram for _, gram in layers]).sum(0)
    cosines = _cosines(products)
    left = products.diagonal() / whole.diagonal().clamp(min=torch.finfo(whole.dtype).tiny)
    common = float(_pairs(whole).mean())
    return Agreement(
        rank,
        *jackknife(cosines),
        *jackknife(cosines - _cosines(whole)),
        _chance(layers),
        float(left.mean()),
        float(_pairs(products).mean()) / common if common else None,
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
    """Return the mean of symmetric (K, K) ``values`` over pairs, and its standard error: each client left out in turn.

    Pairs share clients, and are not independent: it is clients that are drawn. Two clients give no error: it is None.
    """
    clients = len(values)
    mean = float(_pairs(values).mean())
    if clients < 3:
        return mean, None
    kept = [[other for other in range(clients) if other != client] for client in range(clients)]
    means = torch.stack([_pairs(values[rest][:, rest]).mean() for rest in kept])
    return mean, math.sqrt((clients - 1) / clients * float((means - means.mean()).square().sum()))


def _pairs(values: Tensor) -> Tensor:
    row, column = torch.triu_indices(values.shape[0], values.shape[1], offset=1)
    return values[row, column]


def planted(theta: float, o: int, i: int) -> Planted:
    """Return the cosines for A = θ·uvᵀ + N_A and B = θ·uvᵀ + N_B, noise of variance 1/i an entry, as o and i grow.

    Whole: θ²/(θ² + o). For rank one, with β = o/i, the leading singular vectors have squared cosines
    1 − β(1 + θ²)/(θ²(θ² + β)) with u and 1 − (β + θ²)/(θ²(θ² + 1)) with v if θ⁴ > β, else 0 (Benaych-Georges and
    Nadakuditi, Journal of Multivariate Analysis 111, 2012), and meet those of the other client only through u and v:
    the cosine is the product of the two.
    """
    beta, square = o / i, theta**2
    whole = square / (square + o)
    if square**2 <= beta:
        return Planted(whole, 0.0)
    left = 1 - beta * (1 + square) / (square * (square + beta))
    right = 1 - (beta + square) / (square * (square + 1))
    return Planted(whole, left * right)


def flat(gradients: Sequence[Params], keys: Iterable[str]) -> Tensor:
    """Return gradients as the rows of a matrix (K, n), the entries of ``keys`` one after another, in float64."""
    order = list(keys)
    return torch.stack([torch.cat([gradient[key].double().flatten() for key in order]) for gradient in gradients])


def shares(gradients: Tensor, eigenvectors: Tensor) -> list[float]:
    """Return the share ‖Vᵀg‖²/‖g‖² of each row g of (K, n) in the span of orthonormal ``eigenvectors`` (n, k).

    By chance it is ``overlap_by_chance(n, 1, k)``: k/n. A gradient of 0 has none.
    """
    tiny = torch.finfo(gradients.dtype).tiny
    return [overlap(each[:, None] / each.norm().clamp(min=tiny), eigenvectors) for each in gradients]
