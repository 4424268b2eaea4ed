"""FlexLoRA: clients of different ranks, whose products are averaged and truncated to each client's rank by an SVD.

Bai, Chen, Qian, Yao, Li, "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client
Resources", NeurIPS 2024, arXiv 2402.11505::

    clients   minimise f_k(W + s_k·B_k A_k; θ) over (A_k, B_k, θ) of rank r_k;  s_k = α/r_k;  W stays frozen
    server    ΔW = Σ p_k s_k B_k A_k,  θ ← Σ p_k θ_k
              client k receives the best factors of rank r_k:  s_k B_k A_k = SVD_{r_k}(ΔW)

The aggregate is exact, and a client receives its best approximation of rank r_k. The server's model keeps all of ΔW,
whose rank is at most Σ r_k over the cohort. Unlike in the paper's code, ΔW is never formed: the SVD is computed from
the stacked factors by two QR factorisations, and the singular values are split evenly between B and A. Ranks that ΔW
does not use, such as all ranks before round 1, contain the fresh draw of A and B = 0, so that they can be trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.method import Down, Method, Profile, State, Total, Traits, Up
from fedloru.methods import blocks, ranks
from fedloru.methods.declare import method
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net
from fedloru.tree import Params

_message = blocks.down_fresh("a")


@method(trained="A, B of rank r_k", aggregate="exact", rank="Σ r_k", source="2402.11505")
def flexlora() -> Method:
    """FlexLoRA: averages products of any rank, and truncates them to each client's rank (lowrank.capacities) by an SVD.

    Values in each direction: r_k(o + i) for each site, and θ; down, the initial factors are not sent.
    """
    return fedlora()._replace(
        traits=Traits(low_rank=True, ranks="many", stacks=True),
        down=down,
        expand=ranks.scaled,
        reduce=reduce,
        server=server,
        values=lambda net, round, cohort, profile: ranks.values(net, profile, drawn=round == 1),
        view=lambda net, state: state.shared,
    )


def down(net: Net, state: State, profile: Profile) -> Down:
    """Send the first r_k ranks, which have the largest singular values, at the client's scale s_k."""
    cut = ranks.cut(net, _message(net, state, profile), profile)
    scaled = {site.b: cut.shared[site.b] * (ranks.rank_of(site, profile) / site.rank) for site in net.sites}
    return cut._replace(shared=cut.shared | scaled)


def reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    """Stack the factors at the scale of the site, and sum θ."""
    rest = [Up(tree.omit(up.shared, net.factors)) for up in ups]
    scaled = [(w, ranks.scaled(net, up.shared, down)) for w, up in zip(weights, ups, strict=True)]
    return blocks.reduce(net, state, down, rest, weights)._replace(stack=lowrank.stack(net.sites, scaled))


def server(net: Net, state: State, total: Total) -> State:
    """Average θ, and factorise ΔW with its singular values in descending order."""
    after = blocks.average(net, state, total)
    mean = blocks.mean_product(net, total)
    fresh = lowrank.init_factors(net.sites, state.seed, 0, state.shared)
    factors = [_sorted(site, mean, fresh) for site in net.sites]
    shared = state.shared | after.shared | tree.cast_like({k: v for f in factors for k, v in f.items()}, state.shared)
    return after._replace(shared=shared)


def _sorted(site: Site, stack: Params, fresh: Params) -> Params:
    """Return the SVD factors for the ranks in use, and fresh factors up to the rank of the site."""
    factors, _ = lowrank.truncate(site, stack, min(site.o, site.i))
    sigma = lowrank.matrices(site, factors)[1].square().sum(0)
    used = int((sigma > 1e-6 * sigma.max()).sum()) if torch.any(sigma > 0) else 0
    rest = {key: value.to(factors[key]) for key, value in fresh.items() if key in site.keys}
    unused = {site.a: rest[site.a][used:], site.b: rest[site.b][:, used:]}
    return lowrank.concatenate([site], ranks.first_ranks(site, factors, used), unused)
