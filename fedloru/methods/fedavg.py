"""FedAvg: average all weights of a model.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, arXiv 1602.05629::

    clients   minimise f_k(W) from the received W by E epochs of SGD
    server    W ← Σ p_k W_k,  p_k = n_k / Σ n_j over the cohort

All other methods replace one or more of its functions. Floating-point buffers (BatchNorm's running statistics) are
averaged like weights and never trained. On a model with low-rank sites, FedAvg trains the weights and ignores the
factors.
"""

from __future__ import annotations

from fedloru.method import Method
from fedloru.methods import blocks
from fedloru.methods.declare import method


@method(trained="all weights", aggregate="exact", rank="full", source="1602.05629")
def fedavg() -> Method:
    """FedAvg: all weights are trained and averaged; `[lowrank]` has no effect.

    Values in each direction: all parameters.
    """
    return Method(
        init=blocks.init_dense,
        down=blocks.down,
        begin=blocks.begin,
        up=blocks.up,
        reduce=blocks.reduce,
        server=blocks.average,
        values=blocks.dense_values,
    )
