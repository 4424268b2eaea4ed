"""FedPara and pFedPara: weights that are Hadamard products of two low-rank matrices.

Hyeon-Woo, Ye-Bin, Oh, "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning", ICLR 2022,
arXiv 2108.06098. With R the rank of the site::

    matrices        W = (X₁Y₁ᵀ) ⊙ (X₂Y₂ᵀ)                               X (o, R), Y (i, R): rank ≤ R²
    convolutions    W = (T₁ ×₁ X₁ ×₂ Y₁) ⊙ (T₂ ×₁ X₂ ×₂ Y₂)             T (R, R, k, k)  (Proposition 3)
    clients         minimise f_k(W; θ) over all of these;  server: means
    pFedPara        W = (X₁Y₁ᵀ) ⊙ (X₂Y₂ᵀ + 1), where X₂, Y₂ (and T₂) never leave the client, and begin at X₂Y₂ᵀ = 0

``init="random"`` is the paper's He initialisation: W has variance 2/i. ``init="model"`` begins at the model's weights:
X₁Y₁ᵀ is their truncated SVD (for a convolution the truncated HOSVD, T₁ the core), X₂Y₂ᵀ = 1. At full rank, R = o or i
(for a convolution R ≥ o and i), that is FedAvg's first model exactly, and a round that trains nothing (lr = 0) keeps
it; training is not FedAvg's, for W moves through its factors. The layer's own factors are 0, of rank 1, and its weight
W₀ is never sent. Different from the paper: no Jacobian correction, no tanh, and pFedPara's clients all begin alike.
"""

from __future__ import annotations

from typing import Literal

import torch

from fedloru import tree
from fedloru.method import Down, Method, Profile, State, Up, Values
from fedloru.methods import ranks
from fedloru.methods.fedavg import start, whole_counts
from fedloru.methods.fedlora import fedlora, need_sites
from fedloru.methods.hadamard import flat, he, of_model, product, shapes
from fedloru.methods.settings import one_of, refuse
from fedloru.net import Net
from fedloru.tree import Params

Init = Literal["random", "model"]


def fedpara(*, personal: bool = False, init: Init = "random") -> Method:
    """Return FedPara. Values each way: 2R(o + i) a site, 2R(o + i + Rk²) for a convolution, and θ; pFedPara: half.

    Args:
        personal: pFedPara: the second pair is private, and W = (X₁Y₁ᵀ) ⊙ (X₂Y₂ᵀ + 1).
        init: ``"random"`` draws W, ``"model"`` begins at the model's weights.

    Raises:
        ConfigError: there is no such ``init``.
    """
    refuse("fedpara", one_of("init", init, ("random", "model")))
    pairs = ("1",) if personal else ("1", "2")
    made = fedlora()._replace(
        name="fedpara",
        config={"personal": personal, "init": init},
        init=lambda net, seed: _start(net, seed, init, pairs),
        expand=lambda net, train, down: expand(net, train, personal=personal),
        values=lambda net, round, cohort, profile: _values(net, len(pairs)),
    )
    return made._replace(begin=_begin_personal, up=_up_personal) if personal else made


def expand(net: Net, train: Params, *, personal: bool) -> Params:
    """Return the dense weights in the place of their factors."""
    own = {key for site in net.sites for n in ("1", "2") for key in shapes(site, n)}
    whole = tree.omit(train, own)
    for site in net.sites:
        second = product(site, train, "2")
        whole[site.weight] = product(site, train, "1") * (second + 1 if personal else second)
    return whole


def _start(net: Net, seed: int, init: Init, pairs: tuple[str, ...]) -> State:
    weights = need_sites(net)
    state = start(net, seed, net.trainable - net.factors)
    shared = dict(state.shared)
    for site in net.sites:
        if init == "random":
            for n in pairs:
                shared |= he(net, site, seed, n, len(pairs))
        else:
            shared |= of_model(net, site, seed) | (flat(net, site, seed, 1.0) if "2" in pairs else {})
    base = tree.omit(state.base, weights | net.factors) | ranks.idle(net)
    return state._replace(base=dict(sorted(base.items())), shared=dict(sorted(shared.items())))


def _begin_personal(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    private = client_state or {key: t for site in net.sites for key, t in flat(net, site, down.seed, 0.0).items()}
    return dict(sorted((down.shared | private).items()))


def _up_personal(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    private = {key for site in net.sites for key in shapes(site, "2")}
    return Up(tree.omit(train, private)), tree.select(train, sorted(private))


def _values(net: Net, pairs: int) -> Values:
    one = sum(torch.Size(shape).numel() for site in net.sites for shape in shapes(site, "1").values())
    each = whole_counts(net, net.trainable - net.factors) | {"factors": pairs * one}
    return Values(each, each)
