"""Clipping of client updates: no client moves the average by more than a bound.

The update Δ = trained − received of one client is scaled by min(1, c/‖Δ‖₂) before it is sent (McMahan, Ramage,
Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018, arXiv 1710.06963, flat
clipping). Statistics are not part of Δ. A reset needs no care: Δ is relative to what was received in this round.
"""

from __future__ import annotations

import torch

from fedloru import tree
from fedloru.method import Down, Method, Up
from fedloru.methods.wrappers.record import wrapped
from fedloru.net import Net
from fedloru.tree import Params


def clip(method: Method, *, norm: float) -> Method:
    """Return ``method`` whose clients' updates have a Euclidean norm of at most ``norm``."""

    def up(net: Net, train: Params, down: Down, own: Params, steps: int) -> tuple[Up, Params]:
        sent, kept = method.up(net, train, down, own, steps)
        keys = [key for key in sent.shared if key in down.shared and key not in net.buffers]
        delta = tree.sub(tree.select(sent.shared, keys), down.shared)
        factor = torch.clamp(norm / tree.norm(delta), max=1.0)
        clipped = {key: down.shared[key] + (factor * change).to(change.dtype) for key, change in delta.items()}
        return sent._replace(shared=sent.shared | clipped), kept

    return wrapped(method, "clip", {"norm": norm})._replace(up=up)
