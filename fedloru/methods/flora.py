"""FLoRA: fresh factors every round, stacked by the server; clients may differ in rank.

Wang, Shen, He, Sun, Wang, Lyu, Li, "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
Adaptations", NeurIPS 2024, arXiv 2409.05976::

    clients   minimise f_k(W + s_k·B_k A_k; θ) over (A_k, B_k, θ), from fresh A_k, B_k = 0 of rank r_k;  s_k = α/r_k
    server    W ← W + Σ p_k s_k B_k A_k = W + [p_1 s_1 B_1 … p_P s_P B_P] [A_1; …; A_P],  θ ← Σ p_k θ_k,  version += 1

The aggregate is exact. The stack, of rank Σ r_k, is the increment of every round: all clients receive it sooner or
later, or W where that is smaller. A_k are the first r_k rows of one draw from (seed, "fresh", version), so that they
cost no bytes. The paper lets each client draw its own A_k, scales A_k by p_k (the same product) and has no θ.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedloru import lowrank, tree
from fedloru.method import Down, Method, Profile, State, Total, Up, Values
from fedloru.methods.accumulate import mean_product, merged
from fedloru.methods.fedavg import average, reduce, whole_counts
from fedloru.methods.fedavg import down as send
from fedloru.methods.fedlora import fedlora
from fedloru.methods.ranks import rank_of, resized, scaled
from fedloru.net import Net


def flora() -> Method:
    """Return FLoRA. Values up: r_k(o + i) a site, and θ; down: θ, and increments of Σ_k r_k(o + i)."""
    return fedlora()._replace(
        ranks="many",
        name="flora",
        config={},
        down=_down,
        expand=scaled,
        reduce=_reduce,
        server=_server,
        values=_values,
        stacks=True,
    )


def _down(net: Net, state: State, profile: Profile) -> Down:
    sent = send(net, state, profile)
    if all(rank_of(site, profile) == site.rank for site in net.sites):
        return sent
    cut = lowrank.fresh(resized(net, profile), state.seed, state.version, state.shared)
    return sent._replace(shared=state.shared | cut)


def _reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    rest = [up._replace(shared=tree.omit(up.shared, net.factors)) for up in ups]
    parts = [(w, scaled(net, up.shared, down)) for w, up in zip(weights, ups, strict=True)]
    return reduce(net, state, down, rest, weights)._replace(stack=lowrank.stack(net.sites, parts))


def _server(net: Net, state: State, total: Total) -> State:
    mean = tree.cast_like(mean_product(net, total), state.shared)
    after = merged(net, average(net, state, total), mean)
    renewed = lowrank.fresh(net.sites, state.seed, after.version, state.shared)
    return after._replace(shared=state.shared | after.shared | renewed)


def _values(net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
    rest = whole_counts(net, net.trainable - net.factors)
    each = {one: sum(site.values(rank_of(site, one)) for site in net.sites) for one in {profile, *cohort}}
    return Values(rest | {"factors": 0}, rest | {"factors": each[profile]}, sum(each[one] for one in cohort))
