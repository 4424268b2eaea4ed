"""FedHM: a dense model on the server, and its low-rank approximations on clients of different capacity.

Yao, Pan, O'Neill, Dai, Wan, Jin, Sun, "FedHM: Efficient Federated Learning for Heterogeneous Models via
Low-rank Factorization", arXiv 2111.14655::

    server    sends the best U_k V_k of rank r_k for W (truncated SVD, singular values shared evenly), and θ
    clients   minimise f_k(U_k V_k; θ) over (U_k, V_k, θ); the layer has no other weight
    server    W ← Σ p_k U_k V_k,  θ ← Σ p_k θ_k

With B = U/√s and A = V/√s, the layer computes 0 + s·BA: its base weight is 0, and these zeros are counted in the first
download. W stays on the server, which replaces it by one product of all stacked factors.

At full rank, clients start from exactly W, which is FedAvg's initial model, and a round without training (lr = 0)
returns it. Training differs from FedAvg at any rank, because the gradients of U and V are that of W multiplied by the
other factor. Below full rank, even a round with lr = 0 truncates W to the clients' ranks.

Differences from the paper: a convolution is factorised as a matrix o × ik², not (ok) × (ik), and there is no Frobenius
decay; the client's weight decay acts on the factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.method import Down, Method, Profile, State, Total, Traits, Up
from fedloru.methods import blocks, ranks
from fedloru.methods.declare import method
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net
from fedloru.tree import Params


@method(trained="UV cut from W", aggregate="exact", rank="W: Σ r_k", source="2111.14655")
def fedhm() -> Method:
    """FedHM: truncates a dense model on the server to each client's rank (lowrank.capacities) by an SVD.

    Values in each direction: r_k(o + i) for each site, and θ.
    """
    return fedlora()._replace(
        traits=Traits(low_rank=True, ranks="many", stacks=True),
        init=init,
        down=down,
        reduce=_stacked,
        server=server,
        values=lambda net, round, cohort, profile: ranks.values(net, profile),
        view=lambda net, state: state.shared | ranks.idle(net),
    )


def init(net: Net, seed: int) -> State:
    """Share θ and the dense weights of the sites, which are 0 in every client's base."""
    weights = blocks.site_weights(net)
    state = blocks.init_shared(net, seed, (net.trainable | weights) - net.factors)
    zeros = {key: torch.zeros_like(net.params[key]) for key in weights}
    return state._replace(base=dict(sorted((tree.omit(state.base, net.factors) | zeros).items())))


def factorised(site: Site, weight: Tensor, rank: int) -> Params:
    """Return factors of ``rank`` whose s·BA best approximates a dense weight, with equal norms of A and B."""
    wide = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
    u, sigma, vt = torch.linalg.svd(wide / site.scale, full_matrices=False)
    root = sigma[:rank].sqrt()
    signs = lowrank.signs_of(u[:, :rank])
    a, b = (signs * root)[:, None] * vt[:rank], u[:, :rank] * (signs * root)
    return {
        site.a: a.to(weight.dtype).reshape(site.a_shape(rank)),
        site.b: b.to(weight.dtype).reshape(site.b_shape(rank)),
    }


def down(net: Net, state: State, profile: Profile) -> Down:
    """Send the dense weights truncated to the client's rank, and θ."""
    sent = tree.omit(state.shared, [site.weight for site in net.sites])
    for site in net.sites:
        sent |= factorised(site, state.shared[site.weight], ranks.rank_of(site, profile))
    return blocks.down(net, state, profile)._replace(shared=dict(sorted(sent.items())))


def _stacked(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    rest = [Up(tree.omit(up.shared, net.factors)) for up in ups]
    stack = lowrank.stack(net.sites, [(weight, up.shared) for weight, up in zip(weights, ups, strict=True)])
    return blocks.reduce(net, state, down, rest, weights)._replace(stack=stack)


def server(net: Net, state: State, total: Total) -> State:
    """Average θ, and replace W by the mean of the products."""
    after = blocks.average(net, state, total)
    mean = blocks.mean_product(net, total)
    weights = {site.weight: lowrank.delta(site, mean) for site in net.sites}
    return after._replace(shared=state.shared | after.shared | tree.cast_like(weights, state.shared))
