"""FedLoRA (FedIT): average the factors of a frozen model.

Zhang, Vahidian, Kuo, Li, Zhang, Yu, Zhou, Chen, "Towards Building the Federated GPT: Federated Instruction
Tuning", ICASSP 2024, arXiv 2305.05644::

    clients   minimise f_k(W + s·BA; θ) over (A, B, θ);  W stays frozen
    server    A ← Σ p_k A_k,  B ← Σ p_k B_k,  θ ← Σ p_k θ_k

The aggregate is inexact, s·B̄Ā ≠ s·Σ p_k B_k A_k, and the rank of the total update is at most r. The paper fine-tunes
attention projections and has no θ; here, all other trainable weights are averaged too.
"""

from __future__ import annotations

from functools import partial

from fedloru.lowrank.algebra import Init
from fedloru.method import Method, Traits
from fedloru.methods.blocks import down_fresh, init_low_rank, low_rank_values
from fedloru.methods.declare import method
from fedloru.methods.fedavg import fedavg


@method(trained="A, B", aggregate="inexact", rank="r", source="2305.05644")
def fedlora(*, init: Init = "a") -> Method:
    """FedLoRA (FedIT): trains and averages the factors of a frozen model.

    Values in each direction: r(o + i) for each site, and θ; down, the initial factors are not sent.

    Args:
        init: the initial factors: `a` draws A and sets B to 0, so that the model is unchanged; `both` draws both.
    """
    return fedavg()._replace(
        traits=Traits(low_rank=True),
        init=partial(init_low_rank, init=init),
        down=down_fresh(init),
        values=lambda net, round, cohort, profile: low_rank_values(net, factors_down=round > 1),
    )
