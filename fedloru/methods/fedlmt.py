"""FedLMT: a model that is low-rank throughout training.

Liu, Zhou, Wu, Hu, Guizani, Sheng, "FedLMT: Tackling System Heterogeneity of Federated Learning via Low-Rank Model
Training with Theoretical Guarantees", ICML 2024, PMLR v235 (liu24ch)::

    init      U V = the best approximation of W₀ of rank r (truncated SVD), or a random draw
    clients   minimise f_k(UV; θ) over (U, V, θ)
    server    U ← Σ p_k U_k,  V ← Σ p_k V_k,  θ ← Σ p_k θ_k

With B = U/√s and A = V/√s, the layer computes 0 + s·BA: its base weight is 0, and these zeros are counted in the first
download. The aggregate is inexact, as in FedLoRA, and the rank of the weights never exceeds r.

At full rank, the spectral initialization equals W₀ exactly, which is FedAvg's initial model, and a round without
training (lr = 0) keeps it. Training differs from FedAvg, because the gradients of U and V are that of W multiplied by
the other factor. Differences from the paper: a convolution is factorised as a matrix o × ik², and the random draw is
``lowrank.init_factors`` with both factors, which is not sent.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch

from fedloru.method import Method, State
from fedloru.methods.blocks import down, down_fresh, init_low_rank, low_rank_values
from fedloru.methods.declare import method
from fedloru.methods.fedhm import factorised
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net


@method(
    trained="UV in place of W",
    aggregate="inexact",
    rank="W: r",
    source="ICML 2024",
    cases={"": {}, "random": {"init": "random"}},
)
def fedlmt(*, init: Literal["spectral", "random"] = "spectral") -> Method:
    """FedLMT: trains and averages a model whose weights are low-rank throughout.

    Values in each direction: r(o + i) for each site, and θ; down, a random draw is not sent.

    Args:
        init: the initial factors: `spectral` is the truncated SVD of the model's weights, `random` a random draw.
    """
    drawn = init == "random"
    return fedlora()._replace(
        init=partial(_init, drawn=drawn),
        down=down_fresh("both") if drawn else down,
        values=lambda net, round, cohort, profile: low_rank_values(net, factors_down=round > 1 or not drawn),
    )


def _init(net: Net, seed: int, *, drawn: bool) -> State:
    state = init_low_rank(net, seed, "both")
    shared, base = dict(state.shared), dict(state.base)
    for site in net.sites:
        base[site.weight] = torch.zeros_like(net.params[site.weight])
        if not drawn:
            shared |= factorised(site, net.params[site.weight], site.rank)
    return state._replace(base=base, shared=shared)
