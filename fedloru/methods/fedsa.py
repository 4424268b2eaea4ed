"""FedSA-LoRA: share A, keep B.

Guo, Zeng, Wang, Fan, Wang, Qu, "Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR 2025,
arXiv 2410.01463::

    clients   minimise f_k(W + s·B_k A; θ) over (A, B_k, θ), from their previous B_k;  W stays frozen
    server    A ← Σ p_k A_k,  θ ← Σ p_k θ_k

B_k starts at 0 and never leaves its client; a client that loses it starts again from 0. There is therefore no shared
adapted model: the evaluation of the shared model uses B = 0, that is the frozen W with the averaged θ, and does not
describe the clients' models. The relevant evaluation is the personal one, of (A, B_k, θ) on the client's examples, as
in the paper. The paper has no θ; if all weights except the factors are frozen, the method is the paper's.
"""

from __future__ import annotations

import torch

from fedloru import tree
from fedloru.method import Down, Method, Profile, State, Up, Values
from fedloru.methods.blocks import count_dense, down, init_low_rank
from fedloru.methods.declare import method
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net
from fedloru.tree import Params


@method(trained="A, private B", aggregate="exact (A)", rank="r", client_state="B", source="2410.01463")
def fedsa() -> Method:
    """FedSA-LoRA: averages the factors A of a frozen model; each client keeps its own B.

    Values in each direction: r·i for each site, and θ; the initial A are sent too.
    """
    return fedlora()._replace(
        init=_init,
        down=down,
        begin=_begin,
        up=_up,
        values=lambda net, round, cohort, profile: _values(net),
    )


def _private(net: Net) -> list[str]:
    return [site.b for site in net.sites]


def _init(net: Net, seed: int) -> State:
    state = init_low_rank(net, seed)
    return state._replace(shared=tree.omit(state.shared, _private(net)))


def _begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    private = {key: client_state.get(key, torch.zeros_like(net.params[key])) for key in _private(net)}
    return down.shared | private


def _up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    private = _private(net)
    return Up(tree.omit(train, private)), client_state | tree.select(train, private)


def _values(net: Net) -> Values:
    each = count_dense(net, net.trainable - net.factors)
    each["factors"] = sum(site.i * site.rank for site in net.sites)
    return Values(each, each)
