"""FedLoRA (FedIT): average the factors of a frozen model.

Zhang, Vahidian, Kuo, Li, Zhang, Yu, Zhou, Chen, "Towards Building the Federated GPT: Federated Instruction
Tuning", ICASSP 2024, arXiv 2305.05644::

    clients   minimise f_k(W + s·BA; θ) over (A, B, θ);  W is frozen for ever
    server    A ← Σ p_k A_k,  B ← Σ p_k B_k,  θ ← Σ p_k θ_k

The aggregate is inexact, s·B̄Ā ≠ s·Σ p_k B_k A_k, and the total update has rank r at most. The paper fine-tunes
attention projections and has no θ; here every weight that the configuration leaves trainable is averaged too.
"""

from __future__ import annotations

from typing import get_args

from fedloru import lowrank, tree
from fedloru.errors import ModelError
from fedloru.lowrank.algebra import Init
from fedloru.method import Method, State, Values
from fedloru.methods.fedavg import fedavg, whole_counts
from fedloru.methods.fedavg import start as share
from fedloru.methods.settings import one_of, refuse
from fedloru.net import Net


def fedlora(*, init: Init = "a") -> Method:
    """Return FedLoRA. Values each way: r(o + i) a site, and θ; down, the first factors cost nothing.

    Args:
        init: ``"a"`` draws A and sets B = 0, so that attaching changes nothing; ``"both"`` draws both.

    Raises:
        ConfigError: there is no such ``init``.
    """
    refuse("fedlora", one_of("init", init, get_args(Init)))
    return fedavg()._replace(
        name="fedlora",
        config={"init": init},
        low_rank=True,
        init=lambda net, seed: start(net, seed, init),
        values=lambda net, round, cohort, profile: values(net, factors_down=round > 1),
    )


def start(net: Net, seed: int, init: Init) -> State:
    """Return the first state: factors drawn from (seed, "fresh", 0) and θ are shared, the rest is base.

    Raises:
        ModelError: the model has no site.
    """
    need_sites(net)
    state = share(net, seed, net.trainable | net.factors)
    return state._replace(shared=state.shared | lowrank.fresh(net.sites, seed, 0, state.shared, init))


def need_sites(net: Net) -> frozenset[str]:
    """Return the keys of the adapted weights.

    Raises:
        ModelError: the model has no site.
    """
    if not net.sites:
        raise ModelError("the model has no low-rank site: attach factors first, with fedloru.attach(model, targets=…)")
    return frozenset(site.weight for site in net.sites)


def values(net: Net, *, factors_down: bool, increment: int = 0) -> Values:
    """Count r(o + i) a site, and θ; ``factors_down`` says whether the server sends factors, or they are fresh."""
    rest = whole_counts(net, net.trainable - net.factors)
    factors = {"factors": sum(site.values() for site in net.sites)}
    return Values(rest | (factors if factors_down else {"factors": 0}), rest | factors, increment)


def live_factors(net: Net, state: State) -> tree.Params:
    """Return the factors that are being trained."""
    return {key: state.shared[key] for site in net.sites for key in site.keys}
