"""Clipping of client updates: no client moves the average by more than a bound.

The update Δ = trained − received of one client is scaled by min(1, c/‖Δ‖₂) before it is sent (McMahan, Ramage,
Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018, arXiv 1710.06963, flat
clipping). Statistics are not part of Δ. A reset needs no care: Δ is relative to what was received in this round.
"""

from __future__ import annotations

from fedloru import tree
from fedloru.method import Down, Method, Up
from fedloru.methods.settings import expect, refuse
from fedloru.methods.wrappers.record import wrapped
from fedloru.net import Net
from fedloru.tree import Params


def clip(method: Method, *, norm: float) -> Method:
    """Return ``method`` whose clients' updates have a Euclidean norm of at most ``norm``.

    Raises:
        ConfigError: the bound is not above 0.
    """
    refuse("clip", expect(norm > 0, "norm", norm, "a number above 0"))

    def up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
        sent, kept = method.up(net, train, down, client_state, steps)
        keys = [key for key in sent.shared if key in down.shared and key not in net.buffers]
        delta = tree.sub(tree.select(sent.shared, keys), down.shared)
        size = float(tree.norm(delta))
        if size <= norm:  # received + update would not be what was trained in the last bit
            return sent, kept
        clipped = tree.add(tree.select(down.shared, keys), tree.scale(delta, norm / size))
        return sent._replace(shared=sent.shared | clipped), kept

    return wrapped(method, "clip", {"norm": norm})._replace(up=up)
