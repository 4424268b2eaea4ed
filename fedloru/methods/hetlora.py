"""HetLoRA: clients of different rank, whose factors are padded with zeros and weighted by their size.

Cho, Liu, Xu, Fahrezi, Joshi, "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models",
EMNLP 2024, arXiv 2401.06432::

    clients   receive the first r_k rows of A and columns of B;  W is frozen for ever
              minimise f_k(W + s·B_k A_k; θ) + λ·Σ ‖B_k^tail‖_F ‖A_k^tail‖_F over (A_k, B_k, θ),  the tail being the
              ranks from γ·r_k on, and drop the tail of a site where training made its term smaller (self-pruning)
    server    A ← Σ w_k A_k / Σ w_k and B likewise, padded with zeros to the rank of the site,
              w_k = ‖B_k A_k‖_F of the site (sparsity-weighted);  θ ← Σ p_k θ_k

The mean of factors is inexact, as FedLoRA's is. All clients have the scale s = α/r of the site: padding and cutting
would change the product under s_k = α/r_k. A site at which all products are 0 keeps its factors. ``tail`` is 1 − γ;
γ = 0.99, which is the last rank up to r_k = 100, is what reimplementations of the method take, and λ = 0.01 is our own
default. The paper's text was not at hand to check either. It prunes for good: a client keeps the lower rank. Here the
client has r_k again in the next round, as its profile says, and one rank is always left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedloru import tree
from fedloru.lowrank import Site, matrices
from fedloru.method import Down, Method, State, Total, Up
from fedloru.methods import ranks, tails
from fedloru.methods.fedavg import average, down
from fedloru.methods.fedavg import reduce as sums
from fedloru.methods.fedlora import fedlora
from fedloru.methods.settings import expect, refuse
from fedloru.net import Net
from fedloru.tree import Params

WEIGHT = "hetlora.weight."


def hetlora(*, tail: float = 0.01, penalty: float = 0.01) -> Method:
    """Return HetLoRA. Values each way: r_k(o + i) a site, and θ; up, that is the most, and pruning sends less.

    Args:
        tail: the share 1 − γ of a client's ranks, the last, that is penalised and pruned; 0 does neither.
        penalty: the weight λ of their norms in a client's loss.

    Raises:
        ConfigError: a setting is out of range.
    """
    refuse(
        "hetlora",
        expect(0 <= tail < 1, "tail", tail, "a number from 0 to below 1"),
        expect(0 <= penalty < math.inf, "penalty", penalty, "a number from 0"),
    )
    return fedlora()._replace(
        name="hetlora",
        config={"tail": tail, "penalty": penalty},
        down=lambda net, state, profile: ranks.cut(net, down(net, state, profile), profile),
        penalty=(lambda net, train, down, client_state: penalty * tails.norms(net, train, tail))
        if tail and penalty
        else None,
        up=lambda net, train, down, client_state, steps: (Up(tails.pruned(net, train, down, tail)), client_state),
        reduce=reduce,
        server=server,
        values=lambda net, round, cohort, profile: ranks.values(net, profile, drawn=round == 1),
        ranks="different",
        own_weights=True,
    )


def reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    """Sum factors by the size of their products, θ by examples, and the sizes beside them."""
    parts = []
    for up, weight in zip(ups, weights, strict=True):
        shared, sizes = tree.scale(up.shared, weight), {}
        for site in net.sites:
            size = _norm(site, up.shared)
            shared |= {key: size * ranks.padded(site, key, up.shared[key]) for key in site.keys}
            sizes[WEIGHT + site.weight] = size
        parts.append(Up(shared, sizes))
    return sums(net, state, down, parts, [1.0] * len(parts))._replace(weight=sum(weights))


def server(net: Net, state: State, total: Total) -> State:
    """Average θ, and factors by the weights of their site."""
    after = average(net, state, total)
    shared = after.shared
    for site in net.sites:
        weight = total.sum.aux[WEIGHT + site.weight]
        means = {key: total.sum.shared[key] / weight for key in site.keys}
        shared |= tree.cast_like(means, shared) if weight > 0 else tree.select(state.shared, site.keys)
    return after._replace(shared=shared)


def _norm(site: Site, factors: Params) -> Tensor:
    """Return ‖BA‖_F, which is that of R of the QR factorisation of B, times A."""
    a, b = (factor.to(torch.promote_types(factor.dtype, torch.float32)) for factor in matrices(site, factors))
    size: Tensor = torch.linalg.matrix_norm(torch.linalg.qr(b)[1] @ a)
    return size
