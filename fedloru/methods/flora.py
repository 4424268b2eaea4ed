"""FLoRA: fresh factors in every round, stacked by the server; clients may have different ranks.

Wang, Shen, He, Sun, Wang, Lyu, Li, "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
Adaptations", NeurIPS 2024, arXiv 2409.05976::

    clients   minimise f_k(W + s_k·B_k A_k; θ) over (A_k, B_k, θ), from fresh A_k, B_k = 0 of rank r_k;  s_k = α/r_k
    server    W ← W + Σ p_k s_k B_k A_k = W + [p_1 s_1 B_1 … p_P s_P B_P] [A_1; …; A_P],  θ ← Σ p_k θ_k,  version += 1

The aggregate is exact. The stack, of rank Σ r_k, is the increment of every round: all clients receive it when they next
take part, or W if that is smaller. A_k are the first r_k rows of one draw from (seed, "fresh", version), so that they
are not sent. In the paper, each client draws its own A_k, p_k scales A_k (the same product), and there is no θ.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedloru import lowrank, tree
from fedloru.method import Down, Method, Profile, State, Total, Traits, Up, Values
from fedloru.methods import blocks
from fedloru.methods.declare import method
from fedloru.methods.fedlora import fedlora
from fedloru.methods.ranks import rank_of, resized, scaled
from fedloru.net import Net


@method(trained="A, B, fresh each round", aggregate="exact", rank="T·Σ r_k", source="2409.05976")
def flora() -> Method:
    """FLoRA: trains fresh factors in every round, and merges the average of their products; ranks may differ.

    Values up: r_k(o + i) for each site, and θ. Values down: θ, and increments of Σ_k r_k(o + i).
    """
    return fedlora()._replace(
        traits=Traits(low_rank=True, ranks="many", stacks=True),
        down=_down,
        expand=scaled,
        reduce=_reduce,
        server=_server,
        values=_values,
    )


def _down(net: Net, state: State, profile: Profile) -> Down:
    sent = blocks.down(net, state, profile)._replace(fresh="a")
    if all(rank_of(site, profile) == site.rank for site in net.sites):
        return sent
    cut = lowrank.init_factors(resized(net, profile), state.seed, state.version, state.shared)
    return sent._replace(shared=state.shared | cut)


def _reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    rest = [up._replace(shared=tree.omit(up.shared, net.factors)) for up in ups]
    parts = [(w, scaled(net, up.shared, down)) for w, up in zip(weights, ups, strict=True)]
    return blocks.reduce(net, state, down, rest, weights)._replace(stack=lowrank.stack(net.sites, parts))


def _server(net: Net, state: State, total: Total) -> State:
    mean = tree.cast_like(blocks.mean_product(net, total), state.shared)
    after = blocks.merged(net, blocks.average(net, state, total), mean)
    return blocks.reset_factors(net, after._replace(shared=state.shared | after.shared))


def _values(net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
    rest = blocks.count_dense(net, net.trainable - net.factors)
    each = {one: sum(site.values(rank_of(site, one)) for site in net.sites) for one in {profile, *cohort}}
    return Values(rest | {"factors": 0}, rest | {"factors": each[profile]}, sum(each[one] for one in cohort))
