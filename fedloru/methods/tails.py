"""The tail of a client's factors: its last ranks, which HetLoRA penalises and prunes.

The tail of A (r_k, i) and B (o, r_k) consists of their last ⌈tail·r_k⌉ rows and columns, but at most r_k − 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedloru.lowrank import Site, matrices
from fedloru.method import Down
from fedloru.methods.ranks import first_ranks
from fedloru.net import Net
from fedloru.tree import Params


def norms(net: Net, factors: Params, tail: float) -> Tensor:
    """Return Σ ‖B^tail‖_F ‖A^tail‖_F over the sites, as a 0-d tensor."""
    return torch.stack([_norm(site, factors, tail) for site in net.sites]).sum()


def pruned(net: Net, train: Params, down: Down, tail: float) -> Params:
    """Return ``train`` without the tails whose ‖B^tail‖_F ‖A^tail‖_F is smaller than that of the received ones."""
    kept = dict(train)
    for site in net.sites:
        if bool(_norm(site, train, tail) < _norm(site, down.shared, tail)):
            kept |= first_ranks(site, train, _before(site, train, tail))
    return kept


def _before(site: Site, factors: Params, tail: float) -> int:
    rank = len(factors[site.a])
    return max(1, rank - math.ceil(tail * rank))


def _norm(site: Site, factors: Params, tail: float) -> Tensor:
    (a, b), before = matrices(site, factors), _before(site, factors, tail)
    norm: Tensor = torch.linalg.vector_norm(b[:, before:]) * torch.linalg.vector_norm(a[before:])
    return norm
