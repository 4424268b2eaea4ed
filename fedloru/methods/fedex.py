"""FedEx-LoRA: average the factors, and add what the average leaves out to the model.

Singhal, Ponkshe, Vepakomma, "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Large Language
Models", ACL 2025, arXiv 2410.09432::

    clients   minimise f_k(W + s·BA; θ) over (A, B, θ)
    server    A ← Ā = Σ p_k A_k,  B ← B̄ = Σ p_k B_k,  θ ← Σ p_k θ_k
              W ← W + s(Σ p_k B_k A_k − B̄Ā) = W + s [p_1 B_1 … p_P B_P] [A_1 − Ā; …; A_P − Ā],  version += 1

The aggregate is exact. The factors live on: nothing is reset. In this form the residual has rank P·r, where a stack of
the products beside −B̄Ā would have (P + 1)r; it is the increment of every round, which clients are sent as factors, or
as W where that is smaller. The paper averages with p_k = 1/P and has no θ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from fedloru import tree
from fedloru.lowrank.algebra import Init
from fedloru.method import Method, Profile, State, Total, Values
from fedloru.methods.accumulate import mean_product, merged, stacked
from fedloru.methods.fedavg import average
from fedloru.methods.fedlora import fedlora, values
from fedloru.methods.settings import one_of, refuse
from fedloru.net import Net


def fedex(*, init: Init = "a") -> Method:
    """Return FedEx-LoRA. Values each way: r(o + i) a site, and θ; down also increments of P·r(o + i).

    Args:
        init: ``"a"`` draws A and sets B = 0, so that attaching changes nothing; ``"both"`` draws both.

    Raises:
        ConfigError: there is no such ``init``.
    """
    refuse("fedex", one_of("init", init, get_args(Init)))
    return fedlora(init=init)._replace(name="fedex", reduce=stacked, server=_server, values=_values, stacks=True)


def _server(net: Net, state: State, total: Total) -> State:
    after = average(net, state, total)
    residual = mean_product(net, total)
    for site in net.sites:
        mean = after.shared[site.a].repeat(len(residual[site.a]) // site.rank, *(1 for _ in site.shape[1:]))
        residual[site.a] = residual[site.a] - mean
    return merged(net, after, tree.cast_like(residual, after.shared))


def _values(net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
    increment = len(cohort) * sum(site.values() for site in net.sites)
    return values(net, factors_down=round > 1, increment=increment)
