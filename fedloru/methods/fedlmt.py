"""FedLMT: a model that is low-rank from start to end.

Liu, Zhou, Wu, Hu, Guizani, Sheng, "FedLMT: Tackling System Heterogeneity of Federated Learning via Low-Rank Model
Training with Theoretical Guarantees", ICML 2024, PMLR v235 (liu24ch)::

    init      U V = the best of rank r to W₀ (truncated SVD), or a random draw
    clients   minimise f_k(UV; θ) over (U, V, θ)
    server    U ← Σ p_k U_k,  V ← Σ p_k V_k,  θ ← Σ p_k θ_k

With B = U/√s and A = V/√s the layer computes 0 + s·BA, so its base weight is 0; these zeros are counted in the first
download. The aggregate is FedLoRA's, inexact; the model never has a rank above r.

At full rank, spectral factors begin at W₀ exactly, which is FedAvg's first model, and a round that trains nothing
(lr = 0) keeps it. Training is not FedAvg's: the gradients of U and V are those of W mapped by the other factor.
Different from the paper: a convolution is cut as a matrix o × ik², and the random draw is ``lowrank.fresh`` with both
factors, which costs no bytes.
"""

from __future__ import annotations

from typing import Literal

import torch

from fedloru.method import Method, State
from fedloru.methods.fedhm import factorised
from fedloru.methods.fedlora import fedlora, start, values
from fedloru.methods.settings import one_of, refuse
from fedloru.net import Net


def fedlmt(*, init: Literal["spectral", "random"] = "spectral") -> Method:
    """Return FedLMT. Values each way: r(o + i) a site, and θ; down, a random draw costs nothing.

    Args:
        init: ``"spectral"`` starts from the truncated SVD of the model's weights, ``"random"`` draws both factors.

    Raises:
        ConfigError: there is no such ``init``.
    """
    refuse("fedlmt", one_of("init", init, ("spectral", "random")))
    drawn = init == "random"
    return fedlora()._replace(
        name="fedlmt",
        config={"init": init},
        init=lambda net, seed: _start(net, seed, drawn=drawn),
        values=lambda net, round, cohort, profile: values(net, factors_down=round > 1 or not drawn),
    )


def _start(net: Net, seed: int, *, drawn: bool) -> State:
    state = start(net, seed, "both")
    shared, base = dict(state.shared), dict(state.base)
    for site in net.sites:
        base[site.weight] = torch.zeros_like(net.params[site.weight])
        if not drawn:
            shared |= factorised(site, net.params[site.weight], site.rank)
    return state._replace(base=base, shared=shared)
