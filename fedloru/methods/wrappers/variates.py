"""The control variates of SCAFFOLD as tensors: c in ``State.aux`` and ``Down.aux``, c_k in what a client keeps.

Each is named after the parameter that it belongs to, apart from what the wrapped method keeps in the same trees. A
client keeps the version too, and so knows whether its variates are of factors that were merged since.
"""

from __future__ import annotations

import torch

from fedloru import tree
from fedloru.method import Down
from fedloru.net import Net
from fedloru.tree import Params

C, VERSION = "scaffold.c.", "scaffold.version"


def zeros(net: Net, shared: Params) -> Params:
    """Return variates of 0 for all that is shared but statistics, in float32 or better."""
    return {
        C + key: torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
        for key, value in shared.items()
        if key not in net.buffers
    }


def variates(tensors: Params) -> Params:
    """Return the variates among ``tensors``."""
    return {name: value for name, value in tensors.items() if name.startswith(C)}


def rest(tensors: Params) -> Params:
    """Return what belongs to the wrapped method."""
    return tree.omit(tensors, [*variates(tensors), VERSION])


def of_client(net: Net, train: Params, down: Down, client_state: Params) -> Params:
    """Return c_k, by key, of all that is received and trained: 0 at first, and for factors that were merged since."""
    received = {key: down.aux[C + key] for key in train if C + key in down.aux}
    kept = {key: client_state.get(C + key, torch.zeros_like(c)) for key, c in received.items()}
    if VERSION in client_state:
        kept |= {key: kept[key] * (client_state[VERSION] == down.version) for key in net.factors & kept.keys()}
    return kept
