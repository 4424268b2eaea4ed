"""HetLoRA: clients of different ranks, whose factors are padded with zeros and weighted by their norms.

Cho, Liu, Xu, Fahrezi, Joshi, "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models",
EMNLP 2024, arXiv 2401.06432::

    clients   receive the first r_k rows of A and columns of B;  W stays frozen
              minimise f_k(W + s·B_k A_k; θ) + λ·Σ ‖B_k^tail‖_F ‖A_k^tail‖_F over (A_k, B_k, θ),  where the tail are
              the ranks from γ·r_k on, and drop the tail of a site if training reduced its term (self-pruning)
    server    A ← Σ w_k A_k / Σ w_k and B likewise, padded with zeros to the rank of the site,
              w_k = ‖B_k A_k‖_F of the site (sparsity-weighted);  θ ← Σ p_k θ_k

The mean of the factors is inexact, as in FedLoRA. All clients use the scale s = α/r of the site: with s_k = α/r_k,
padding and truncating would change the product. A site whose products are all 0 keeps its factors. ``tail`` is 1 − γ;
γ = 0.99, which selects only the last rank up to r_k = 100, is the value in public reimplementations, and λ = 0.01 is
our default; the paper was not available to check either value. In the paper, pruning is permanent: a client keeps the
lower rank. Here, the client has rank r_k again in the next round, as in its profile, and at least one rank always
remains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedloru import tree
from fedloru.lowrank import Site, matrices
from fedloru.method import Down, Method, State, Total, Traits, Up
from fedloru.methods import blocks, ranks, tails
from fedloru.methods.declare import method
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net
from fedloru.settings.types import NotNegative, Share
from fedloru.tree import Params

_message = blocks.down_fresh("a")
WEIGHT = "hetlora.weight."


@method(trained="A, B of rank r_k", aggregate="inexact", rank="r", source="2401.06432")
def hetlora(*, tail: Share = 0.01, penalty: NotNegative = 0.01) -> Method:
    """HetLoRA: averages factors of each client's rank (lowrank.capacities), padded with zeros and weighted by norm.

    Values in each direction: r_k(o + i) for each site, and θ; up, pruning can reduce this.

    Args:
        tail: the share 1 − γ of a client's ranks, counted from the last, that is penalised, and that is not sent if
            training reduced its norm; 0 disables both.
        penalty: the weight λ of the norms of these ranks in a client's loss.
    """
    return fedlora()._replace(
        traits=Traits(low_rank=True, ranks="different", reweights=True, prunes=True),
        down=lambda net, state, profile: ranks.cut(net, _message(net, state, profile), profile),
        penalty=_penalty(tail, penalty) if tail and penalty else None,
        up=lambda net, train, down, client_state, steps: (Up(tails.pruned(net, train, down, tail)), client_state),
        reduce=reduce,
        server=server,
        values=lambda net, round, cohort, profile: ranks.values(net, profile, drawn=round == 1),
    )


def _penalty(tail: float, weight: float) -> Callable[[Net, Params, Down, Params], Tensor]:
    return lambda net, train, down, client_state: weight * tails.norms(net, train, tail)


def reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    """Sum the factors weighted by the norms of their products, those norms, and θ weighted by examples."""
    parts = []
    for up, weight in zip(ups, weights, strict=True):
        shared, sizes = tree.scale(up.shared, weight), {}
        for site in net.sites:
            size = _norm(site, up.shared)
            shared |= {key: size * ranks.padded(site, key, up.shared[key]) for key in site.keys}
            sizes[WEIGHT + site.weight] = size
        parts.append(Up(shared, sizes))
    return blocks.reduce(net, state, down, parts, [1.0] * len(parts))._replace(weight=sum(weights))


def server(net: Net, state: State, total: Total) -> State:
    """Average θ, and the factors of each site with the weights of that site."""
    after = blocks.average(net, state, total)
    shared = after.shared
    for site in net.sites:
        weight = total.sum.aux[WEIGHT + site.weight]
        means = {key: total.sum.shared[key] / weight for key in site.keys}
        shared |= tree.cast_like(means, shared) if weight > 0 else tree.select(state.shared, site.keys)
    return after._replace(shared=shared)


def _norm(site: Site, factors: Params) -> Tensor:
    """Return ‖BA‖_F, computed as ‖RA‖_F with the QR factorisation B = QR."""
    a, b = (factor.to(torch.promote_types(factor.dtype, torch.float32)) for factor in matrices(site, factors))
    size: Tensor = torch.linalg.matrix_norm(torch.linalg.qr(b)[1] @ a)
    return size
