"""The control variates of SCAFFOLD as tensors: c in ``State.aux`` and ``Down.aux``, c_k in the client state.

The key of a variate is that of its parameter with a prefix, which distinguishes it from tensors of the wrapped method.
A client also keeps the version, which shows whether its factors were merged in the meantime.
"""

from __future__ import annotations

import torch

from fedloru import tree
from fedloru.method import Down
from fedloru.net import Net
from fedloru.tree import Params

C, VERSION = "scaffold.c.", "scaffold.version"


def zeros(net: Net, shared: Params) -> Params:
    """Return zero variates for all shared tensors except statistics, in float32 or wider."""
    return {
        C + key: torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
        for key, value in shared.items()
        if key not in net.buffers
    }


def variates(tensors: Params) -> Params:
    """Return the variates among ``tensors``."""
    return {name: value for name, value in tensors.items() if name.startswith(C)}


def rest(tensors: Params) -> Params:
    """Return the tensors that belong to the wrapped method."""
    return tree.omit(tensors, [*variates(tensors), VERSION])


def of_client(net: Net, train: Params, down: Down, client_state: Params) -> Params:
    """Return c_k by key, for all tensors that are received and trained; 0 initially and for factors merged since."""
    received = {key: down.aux[C + key] for key in train if C + key in down.aux}
    kept = {key: client_state.get(C + key, torch.zeros_like(c)) for key, c in received.items()}
    if VERSION in client_state:
        kept |= {key: kept[key] * (client_state[VERSION] == down.version) for key in net.factors & kept.keys()}
    return kept
