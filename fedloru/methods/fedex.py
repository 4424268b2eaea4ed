"""FedEx-LoRA: average the factors, and add the error of that average to the model.

Singhal, Ponkshe, Vepakomma, "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Large Language
Models", ACL 2025, arXiv 2410.09432::

    clients   minimise f_k(W + s·BA; θ) over (A, B, θ)
    server    A ← Ā = Σ p_k A_k,  B ← B̄ = Σ p_k B_k,  θ ← Σ p_k θ_k
              W ← W + s(Σ p_k B_k A_k − B̄Ā) = W + s [p_1 B_1 … p_P B_P] [A_1 − Ā; …; A_P − Ā],  version += 1

The aggregate is exact, and the factors are never reset. In this form the residual has rank P·r; a stack of the products
and −B̄Ā would have rank (P + 1)r. The residual is the increment of every round: clients receive it as factors, or W
if that is smaller. The paper averages with p_k = 1/P and has no θ.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedloru import tree
from fedloru.lowrank.algebra import Init
from fedloru.method import Method, Profile, State, Total, Values
from fedloru.methods.blocks import average, low_rank_values, mean_product, merged, stacked
from fedloru.methods.declare import method
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net


@method(trained="A, B", aggregate="exact", rank="r + T·P·r", source="2410.09432")
def fedex(*, init: Init = "a") -> Method:
    """FedEx-LoRA: averages the factors, and merges the error of their product into the model.

    Values in each direction: r(o + i) for each site, and θ; down, also increments of P·r(o + i).

    Args:
        init: the initial factors: `a` draws A and sets B to 0, so that the model is unchanged; `both` draws both.
    """
    inner = fedlora(init=init)
    return inner._replace(traits=inner.traits._replace(stacks=True), reduce=stacked, server=_server, values=_values)


def _server(net: Net, state: State, total: Total) -> State:
    after = average(net, state, total)
    residual = mean_product(net, total)
    for site in net.sites:
        mean = after.shared[site.a].repeat(len(residual[site.a]) // site.rank, *(1 for _ in site.shape[1:]))
        residual[site.a] = residual[site.a] - mean
    return merged(net, after, tree.cast_like(residual, after.shared))


def _values(net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
    increment = len(cohort) * sum(site.values() for site in net.sites)
    return low_rank_values(net, factors_down=round > 1, increment=increment)
