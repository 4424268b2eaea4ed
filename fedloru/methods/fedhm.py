"""FedHM: a dense model on the server, and low-rank cuts of it on clients of different capacity.

Yao, Pan, O'Neill, Dai, Wan, Jin, Sun, "FedHM: Efficient Federated Learning for Heterogeneous Models via
Low-rank Factorization", arXiv 2111.14655::

    server    sends the best U_k V_k of rank r_k to W (truncated SVD, singular values shared evenly), and θ
    clients   minimise f_k(U_k V_k; θ) over (U_k, V_k, θ): the layer has no other weight
    server    W ← Σ p_k U_k V_k,  θ ← Σ p_k θ_k

With B = U/√s and A = V/√s the layer computes 0 + s·BA, so its base weight is 0; these zeros are counted in the first
download. W stays on the server, and is replaced by one product of all factors stacked.

At full rank clients begin with W exactly, which is FedAvg's first model, and a round that trains nothing (lr = 0) gives
it back. Training is not FedAvg's at any rank: the gradients of U and V are those of W mapped by the other factor.
Below full rank even lr = 0 cuts W to the clients' ranks.

Different from the paper: a convolution is cut as a matrix o × ik², not (ok) × (ik), and Frobenius decay is left out;
the client's weight decay acts on the factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.method import Down, Method, Profile, State, Total, Up
from fedloru.methods import ranks
from fedloru.methods.accumulate import mean_product
from fedloru.methods.fedavg import average, reduce, start
from fedloru.methods.fedavg import down as message
from fedloru.methods.fedlora import fedlora, need_sites
from fedloru.net import Net
from fedloru.tree import Params


def fedhm() -> Method:
    """Return FedHM. Values each way: r_k(o + i) a site, and θ."""
    return fedlora()._replace(
        ranks="many",
        name="fedhm",
        config={},
        init=init,
        down=down,
        reduce=_stacked,
        server=server,
        values=lambda net, round, cohort, profile: ranks.values(net, profile),
        view=lambda net, state: state.shared | ranks.idle(net),
        stacks=True,
    )


def init(net: Net, seed: int) -> State:
    """Share θ and the dense weights of the sites, which are 0 in every client's base."""
    weights = need_sites(net)
    state = start(net, seed, (net.trainable | weights) - net.factors)
    zeros = {key: torch.zeros_like(net.params[key]) for key in weights}
    return state._replace(base=dict(sorted((tree.omit(state.base, net.factors) | zeros).items())))


def factorised(site: Site, weight: Tensor, rank: int) -> Params:
    """Return factors of ``rank`` whose s·BA is the nearest to a dense weight, equally long in A and B."""
    wide = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
    u, sigma, vt = torch.linalg.svd(wide / site.scale, full_matrices=False)
    root = sigma[:rank].sqrt()
    a, b = root[:, None] * vt[:rank], u[:, :rank] * root
    return {
        site.a: a.to(weight.dtype).reshape(site.a_shape(rank)),
        site.b: b.to(weight.dtype).reshape(site.b_shape(rank)),
    }


def down(net: Net, state: State, profile: Profile) -> Down:
    """Send a cut of the dense weights to the client's rank, and θ."""
    sent = tree.omit(state.shared, [site.weight for site in net.sites])
    for site in net.sites:
        sent |= factorised(site, state.shared[site.weight], ranks.rank_of(site, profile))
    return message(net, state, profile)._replace(shared=dict(sorted(sent.items())))


def _stacked(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    rest = [Up(tree.omit(up.shared, net.factors)) for up in ups]
    stack = lowrank.stack(net.sites, [(weight, up.shared) for weight, up in zip(weights, ups, strict=True)])
    return reduce(net, state, down, rest, weights)._replace(stack=stack)


def server(net: Net, state: State, total: Total) -> State:
    """Average θ, and put the mean of the products in the place of W."""
    after = average(net, state, total)
    mean = mean_product(net, total)
    weights = {site.weight: lowrank.delta(site, mean) for site in net.sites}
    return after._replace(shared=state.shared | after.shared | tree.cast_like(weights, state.shared))
