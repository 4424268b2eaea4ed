"""FFA-LoRA: train only B; A is a random draw and frozen.

Sun, Li, Li, Ding, "Improving LoRA in Privacy-Preserving Federated Learning", ICLR 2024, arXiv 2403.12313::

    clients   minimise f_k(W + s·BA; θ) over (B, θ);  A and W stay frozen
    server    B ← Σ p_k B_k,  θ ← Σ p_k θ_k

The aggregate is exact: s·B̄A = s·Σ p_k B_k A. The server and the clients draw A from (seed, "fresh", 0) whenever they
need it. It is neither base nor shared, so it is never sent, not even in the first download. The paper has no θ; here,
all other trainable weights are averaged too.
"""

from __future__ import annotations

from fedloru import lowrank, tree
from fedloru.method import Down, Method, Phase, Profile, State, Up, Values
from fedloru.methods.blocks import count_dense, down, init_low_rank
from fedloru.methods.declare import method
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net
from fedloru.tree import Params


@method(trained="B, fixed A", aggregate="exact", rank="r", source="2403.12313")
def ffalora() -> Method:
    """FFA-LoRA: trains and averages the factors B of a frozen model; A is a fixed random draw that is never sent.

    Values in each direction: r·o for each site, and θ; the initial B are 0 and are sent too.
    """
    return fedlora()._replace(
        init=_init,
        down=down,
        begin=_begin,
        up=_up,
        phases=_phases,
        values=lambda net, round, cohort, profile: _values(net),
    )


def _frozen(net: Net) -> frozenset[str]:
    return frozenset(site.a for site in net.sites)


def _init(net: Net, seed: int) -> State:
    state = init_low_rank(net, seed)
    return state._replace(shared=tree.omit(state.shared, _frozen(net)))


def _begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    return lowrank.init_factors(net.sites, down.seed, 0, net.params) | down.shared


def _phases(net: Net, train: Params) -> tuple[Phase, ...]:
    return (Phase(frozenset(train.keys() - net.buffers.keys() - _frozen(net))),)


def _up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    return Up(tree.omit(train, _frozen(net))), client_state


def _values(net: Net) -> Values:
    each = count_dense(net, net.trainable - net.factors)
    each["factors"] = sum(site.o * site.rank for site in net.sites)
    return Values(each, each)
