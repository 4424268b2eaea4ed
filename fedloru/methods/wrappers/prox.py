"""FedProx: keep a client near what it received.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020,
arXiv 1812.06127: the client's loss gains (μ/2)‖train − received‖². It wraps any method; for a low-rank one the
distance is that of the factors and θ, not of the product BA, so that it costs nothing to evaluate. A reset needs no
care: the anchor is what this round's clients received, fresh factors included.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedloru.method import Down, Method
from fedloru.methods.settings import expect, refuse
from fedloru.methods.wrappers.record import wrapped
from fedloru.net import Net
from fedloru.tree import Params


def prox(method: Method, *, mu: float) -> Method:
    """Return ``method`` with the proximal term (mu/2)‖train − received‖², over the keys that were received.

    Raises:
        ConfigError: mu is negative.
    """
    refuse("prox", expect(0 <= mu < math.inf, "mu", mu, "a number from 0"))
    inner = method.penalty

    def penalty(net: Net, train: Params, down: Down, client_state: Params) -> Tensor:
        keys = [key for key in train if key in down.shared and key not in net.buffers]
        distance = torch.stack([(train[key] - down.shared[key]).square().sum() for key in keys]).sum()
        term = 0.5 * mu * distance
        return term if inner is None else term + inner(net, train, down, client_state)

    return wrapped(method, "prox", {"mu": mu})._replace(penalty=penalty)
