"""FedSA-LoRA: share A, keep B.

Guo, Zeng, Wang, Fan, Wang, Qu, "Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR 2025,
arXiv 2410.01463::

    clients   minimise f_k(W + s·B_k A; θ) over (A, B_k, θ), from the B_k that they had;  W is frozen for ever
    server    A ← Σ p_k A_k,  θ ← Σ p_k θ_k

B_k starts at 0, stays on its client and never travels; a client that loses it starts again at 0. So there is no shared
adapted model: what is evaluated as the shared one has B = 0, the frozen W with the averaged θ, and says nothing of what
a client computes with. The evaluation that counts is the personal one, of (A, B_k, θ) on the client's own examples, as
in the paper. The paper has no θ; with all weights but the factors frozen, the method is the paper's.
"""

from __future__ import annotations

import torch

from fedloru import tree
from fedloru.method import Down, Method, Profile, State, Up, Values
from fedloru.methods.fedavg import whole_counts
from fedloru.methods.fedlora import fedlora
from fedloru.methods.fedlora import start as attach
from fedloru.net import Net
from fedloru.tree import Params


def fedsa() -> Method:
    """Return FedSA-LoRA. Values each way: r·i a site, and θ; the first A are sent too."""
    return fedlora()._replace(
        name="fedsa",
        config={},
        init=_start,
        begin=_begin,
        up=_up,
        values=lambda net, round, cohort, profile: _values(net),
    )


def _private(net: Net) -> list[str]:
    return [site.b for site in net.sites]


def _start(net: Net, seed: int) -> State:
    state = attach(net, seed, "a")
    return state._replace(shared=tree.omit(state.shared, _private(net)))


def _begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    return down.shared | {key: client_state.get(key, torch.zeros_like(net.params[key])) for key in _private(net)}


def _up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    private = _private(net)
    return Up(tree.omit(train, private)), client_state | tree.select(train, private)


def _values(net: Net) -> Values:
    each = whole_counts(net, net.trainable - net.factors)
    each["factors"] = sum(site.i * site.rank for site in net.sites)
    return Values(each, each)
