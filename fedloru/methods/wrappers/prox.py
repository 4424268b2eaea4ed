"""FedProx: keep the trained parameters of a client close to those that it received.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020,
arXiv 1812.06127: adds (μ/2)‖train − received‖² to the loss of a client. It wraps any method. For a low-rank method,
the distance is that of the factors and θ, not of the product BA, so that it is cheap to evaluate. A reset needs no
special case: the anchor are the tensors received in this round, including fresh factors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedloru.method import Down, Method
from fedloru.methods.declare import wrapper
from fedloru.net import Net
from fedloru.settings.types import NotNegative
from fedloru.tree import Params


@wrapper(cases={"prox": ("fedloru", {"tau": 2}, {"mu": 0.5})})
def prox(method: Method, *, mu: NotNegative) -> Method:
    """FedProx: a proximal term in the loss of clients, over the tensors that they received.

    Args:
        mu: the weight μ of FedProx's term (μ/2)‖train − received‖² in a client's loss; by default it is not added.
    """
    inner = method.penalty

    def penalty(net: Net, train: Params, down: Down, client_state: Params) -> Tensor:
        keys = [key for key in train if key in down.shared and key not in net.buffers]
        distance = torch.stack([(train[key] - down.shared[key]).square().sum() for key in keys]).sum()
        term = 0.5 * mu * distance
        return term if inner is None else term + inner(net, train, down, client_state)

    return method._replace(penalty=penalty)
