"""FFA-LoRA: train B alone, with A frozen at a random draw.

Sun, Li, Li, Ding, "Improving LoRA in Privacy-Preserving Federated Learning", ICLR 2024, arXiv 2403.12313::

    clients   minimise f_k(W + s·BA; θ) over (B, θ);  A and W are frozen for ever
    server    B ← Σ p_k B_k,  θ ← Σ p_k θ_k

The aggregate is exact: s·B̄A = s·Σ p_k B_k A. A is drawn from (seed, "fresh", 0) by server and clients alike, whenever
it is needed: it is neither base nor shared, so it never travels, not even with the first download. The paper has no θ;
here every weight that the configuration leaves trainable is averaged too.
"""

from __future__ import annotations

from fedloru import lowrank, tree
from fedloru.method import Down, Method, Phase, Profile, State, Up, Values
from fedloru.methods.fedavg import whole_counts
from fedloru.methods.fedlora import fedlora
from fedloru.methods.fedlora import start as attach
from fedloru.net import Net
from fedloru.tree import Params


def ffalora() -> Method:
    """Return FFA-LoRA. Values each way: r·o a site, and θ; the first B are 0, and are sent all the same."""
    return fedlora()._replace(
        name="ffalora",
        config={},
        init=_start,
        begin=_begin,
        up=_up,
        phases=_phases,
        values=lambda net, round, cohort, profile: _values(net),
    )


def _frozen(net: Net) -> frozenset[str]:
    return frozenset(site.a for site in net.sites)


def _start(net: Net, seed: int) -> State:
    state = attach(net, seed, "a")
    return state._replace(shared=tree.omit(state.shared, _frozen(net)))


def _begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    return lowrank.fresh(net.sites, down.seed, 0, net.params) | down.shared


def _phases(net: Net, train: Params) -> tuple[Phase, ...]:
    return (Phase(frozenset(train.keys() - net.buffers.keys() - _frozen(net))),)


def _up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    return Up(tree.omit(train, _frozen(net))), client_state


def _values(net: Net) -> Values:
    each = whole_counts(net, net.trainable - net.factors)
    each["factors"] = sum(site.o * site.rank for site in net.sites)
    return Values(each, each)
