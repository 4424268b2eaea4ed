"""Clipping of client updates, which bounds the influence of each client on the average.

The update Δ = trained − received of one client is scaled by min(1, c/‖Δ‖₂) before it is sent (McMahan, Ramage,
Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018, arXiv 1710.06963, flat
clipping). Statistics are not part of Δ. A reset needs no special case: Δ is relative to the tensors of this round.
"""

from __future__ import annotations

from fedloru import tree
from fedloru.errors import ModelError
from fedloru.method import Down, Method, Up
from fedloru.methods.declare import wrapper
from fedloru.net import Net
from fedloru.settings import short
from fedloru.settings.types import Positive
from fedloru.tree import Params


@wrapper(cases={"clip": ("fedloru", {"tau": 2}, {"norm": 0.05})})
def clip(method: Method, *, norm: Positive) -> Method:
    """Clipping: the updates of clients are clipped to a maximum norm before they are averaged.

    Args:
        norm: the maximum Euclidean norm of a client's update in a round; by default updates are not clipped.
    """

    def up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
        sent, kept = method.up(net, train, down, client_state, steps)
        keys = [key for key in sent.shared if key in down.shared and key not in net.buffers]
        if other := [key for key in keys if sent.shared[key].shape != down.shared[key].shape]:
            raise ModelError(
                f"clip compares what a client sends with what it received, but {short(method.name)} sends {other[0]} "
                "in another form: clip in the method's own up, before that"
            )
        delta = tree.sub(tree.select(sent.shared, keys), down.shared)
        size = float(tree.norm(delta))
        if size <= norm:  # received + update could differ from the trained values in the last bit
            return sent, kept
        clipped = tree.add(tree.select(down.shared, keys), tree.scale(delta, norm / size))
        return sent._replace(shared=sent.shared | clipped), kept

    return method._replace(up=up)
