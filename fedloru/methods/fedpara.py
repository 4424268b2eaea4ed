"""FedPara and pFedPara: weights that are Hadamard products of two low-rank matrices.

Hyeon-Woo, Ye-Bin, Oh, "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning", ICLR 2022,
arXiv 2108.06098. With R the rank of the site::

    matrices        W = (X₁Y₁ᵀ) ⊙ (X₂Y₂ᵀ)                               X (o, R), Y (i, R): rank ≤ R²
    convolutions    W = (T₁ ×₁ X₁ ×₂ Y₁) ⊙ (T₂ ×₁ X₂ ×₂ Y₂)             T (R, R, k, k)  (Proposition 3)
    clients         minimise f_k(W; θ) over all of these;  server: means
    pFedPara        W = (X₁Y₁ᵀ) ⊙ (X₂Y₂ᵀ + 1), where X₂, Y₂ (and T₂) never leave the client; initially X₂Y₂ᵀ = 0

``init="random"`` is the paper's He initialization: W has variance 2/i. ``init="model"`` starts from the weights of
the model: X₁Y₁ᵀ is their truncated SVD (for a convolution, the truncated HOSVD with the core T₁), and X₂Y₂ᵀ = 1. At
full rank, R = o or i (for a convolution R ≥ o and i), this is exactly FedAvg's initial model, and a round without
training (lr = 0) keeps it; training differs from FedAvg, since W changes through its factors. The layer's LoRA factors
have rank 1 and are 0, and its weight W₀ is never sent. Differences from the paper: no Jacobian correction, no tanh, and
all clients of pFedPara start from the same values.
"""

from __future__ import annotations

from typing import Literal

import torch

from fedloru import tree
from fedloru.method import Down, Method, Profile, State, Up, Values
from fedloru.methods import ranks
from fedloru.methods.blocks import count_dense, down, init_shared, site_weights
from fedloru.methods.declare import method
from fedloru.methods.fedlora import fedlora
from fedloru.methods.hadamard import flat, he, of_model, product, shapes
from fedloru.net import Net
from fedloru.settings.types import Flag
from fedloru.tree import Params

Init = Literal["random", "model"]


@method(
    trained="X₁Y₁ᵀ ⊙ X₂Y₂ᵀ for W",
    aggregate="inexact",
    rank="W: r²",
    client_state="– (X₂, Y₂)",
    source="2108.06098",
    cases={"": {}, "model": {"init": "model"}, "personal": {"personal": True}},
)
def fedpara(*, personal: Flag = False, init: Init = "random") -> Method:
    """FedPara: averages the factors of weights that are elementwise products of two low-rank matrices.

    Values in each direction: 2R(o + i) for each site, 2R(o + i + Rk²) for a convolution, and θ; pFedPara: half of the
    factors.

    Args:
        personal: whether the second pair of factors stays on the client (pFedPara): W = (X₁Y₁ᵀ) ⊙ (X₂Y₂ᵀ + 1).
        init: the initial weights: `random` draws them, `model` truncates the model's values to the rank.
    """
    pairs = ("1",) if personal else ("1", "2")
    made = fedlora()._replace(
        init=lambda net, seed: _init(net, seed, init, pairs),
        down=down,
        expand=lambda net, train, down: expand(net, train, personal=personal),
        values=lambda net, round, cohort, profile: _values(net, len(pairs)),
    )
    return made._replace(begin=_begin_personal, up=_up_personal) if personal else made


def expand(net: Net, train: Params, *, personal: bool) -> Params:
    """Return ``train`` with dense weights in place of their factors."""
    own = {key for site in net.sites for n in ("1", "2") for key in shapes(site, n)}
    whole = tree.omit(train, own)
    for site in net.sites:
        second = product(site, train, "2")
        whole[site.weight] = product(site, train, "1") * (second + 1 if personal else second)
    return whole


def _init(net: Net, seed: int, init: Init, pairs: tuple[str, ...]) -> State:
    weights = site_weights(net)
    state = init_shared(net, seed, net.trainable - net.factors)
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
    each = count_dense(net, net.trainable - net.factors) | {"factors": pairs * one}
    return Values(each, each)
