"""Dense symmetric matrices in float64, and their ``Symmetric`` form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedloru.analysis.lanczos import Symmetric


def of(h: Tensor) -> Symmetric:
    return Symmetric(lambda v: h @ v, len(h), h.dtype, h.device)


def counted(h: Tensor) -> tuple[Symmetric, list[None]]:
    """Return ``h`` as ``Symmetric``, and a list that gets one entry per product."""
    calls: list[None] = []

    def product(v: Tensor) -> Tensor:
        calls.append(None)
        return h @ v

    return Symmetric(product, len(h), h.dtype, h.device), calls


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wigner(n: int, seed: int = 0) -> Tensor:
    a = normal(n, n, seed=seed)
    return (a + a.T) / 2


def rotated(values: Sequence[float] | Tensor, seed: int = 0) -> Tensor:
    """Return a matrix with these eigenvalues."""
    rotation, _ = torch.linalg.qr(normal(len(values), len(values), seed=seed))
    return rotation @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ rotation.T


def stable_rank(h: Tensor) -> float:
    values = torch.linalg.eigvalsh(h)
    return float(values.square().sum() / values.square().max())
