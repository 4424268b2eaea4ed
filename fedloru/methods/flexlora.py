"""FlexLoRA: clients of different rank, whose products are summed and cut to each client's rank by an SVD.

Bai, Chen, Qian, Yao, Li, "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client
Resources", NeurIPS 2024, arXiv 2402.11505::

    clients   minimise f_k(W + s_k·B_k A_k; θ) over (A_k, B_k, θ) of rank r_k;  s_k = α/r_k;  W is frozen for ever
    server    ΔW = Σ p_k s_k B_k A_k,  θ ← Σ p_k θ_k
              client k receives the best factors of rank r_k:  s_k B_k A_k = SVD_{r_k}(ΔW)

The aggregate is exact; what a client receives of it has rank r_k. The server's own model keeps all of ΔW, of rank
Σ r_k over the cohort at most. Different from the paper's code, ΔW is never formed: the SVD is that of the stacked
factors by two QR factorisations, and the singular values are shared evenly between B and A. Ranks that ΔW leaves
unused, as before the first round, hold the fresh draw of A and B = 0, and so can still be trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.method import Down, Method, Profile, State, Total, Up
from fedloru.methods import ranks
from fedloru.methods.accumulate import mean_product
from fedloru.methods.fedavg import average
from fedloru.methods.fedavg import down as message
from fedloru.methods.fedavg import reduce as sums
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net
from fedloru.tree import Params


def flexlora() -> Method:
    """Return FlexLoRA. Values each way: r_k(o + i) a site, and θ; the first are drawn, and cost nothing down."""
    return fedlora()._replace(
        ranks="many",
        name="flexlora",
        config={},
        down=down,
        expand=ranks.scaled,
        reduce=reduce,
        server=server,
        values=lambda net, round, cohort, profile: ranks.values(net, profile, drawn=round == 1),
        view=lambda net, state: state.shared,
        stacks=True,
    )


def down(net: Net, state: State, profile: Profile) -> Down:
    """Send the first r_k ranks, which are the largest, in the scale s_k of the client."""
    cut = ranks.cut(net, message(net, state, profile), profile)
    scaled = {site.b: cut.shared[site.b] * (ranks.rank_of(site, profile) / site.rank) for site in net.sites}
    return cut._replace(shared=cut.shared | scaled)


def reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    """Stack the factors in the scale of the site, and sum θ."""
    rest = [Up(tree.omit(up.shared, net.factors)) for up in ups]
    scaled = [(w, ranks.scaled(net, up.shared, down)) for w, up in zip(weights, ups, strict=True)]
    return sums(net, state, down, rest, weights)._replace(stack=lowrank.stack(net.sites, scaled))


def server(net: Net, state: State, total: Total) -> State:
    """Average θ, and sort ΔW by singular values."""
    after = average(net, state, total)
    mean = mean_product(net, total)
    fresh = lowrank.fresh(net.sites, state.seed, 0, state.shared)
    factors = [_sorted(site, mean, fresh) for site in net.sites]
    shared = state.shared | after.shared | tree.cast_like({k: v for f in factors for k, v in f.items()}, state.shared)
    return after._replace(shared=shared)


def _sorted(site: Site, stack: Params, fresh: Params) -> Params:
    """Return the SVD's factors of all ranks in use, and fresh ones up to the rank of the site."""
    factors, _ = lowrank.truncate(site, stack, min(site.o, site.i))
    sigma = lowrank.matrices(site, factors)[1].square().sum(0)
    used = int((sigma > 1e-6 * sigma.max()).sum()) if torch.any(sigma > 0) else 0
    rest = {key: value.to(factors[key]) for key, value in fresh.items() if key in site.keys}
    unused = {site.a: rest[site.a][used:], site.b: rest[site.b][:, used:]}
    return lowrank.concatenate([site], ranks.first_ranks(site, factors, used), unused)
