"""FedAvg: average whole models.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, arXiv 1602.05629::

    clients   minimise f_k(W) from the received W by E epochs of SGD
    server    W ← Σ p_k W_k,  p_k = n_k / Σ n_j over the cohort

Its functions are the defaults that every other method replaces one at a time. Floating-point buffers (BatchNorm's
running statistics) are averaged like weights and never trained. On a model with low-rank sites, FedAvg trains the
weights and leaves the factors alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedloru import tree
from fedloru.method import Down, Method, Profile, State, Total, Up, Values
from fedloru.net import Net
from fedloru.tree import Params


def fedavg() -> Method:
    """Return FedAvg. Values each way: all parameters."""
    return Method(
        name="fedavg",
        config={},
        low_rank=False,
        init=init,
        down=down,
        begin=begin,
        expand=None,
        penalty=None,
        up=up,
        reduce=reduce,
        server=average,
        values=values,
    )


def init(net: Net, seed: int) -> State:
    """Share every weight but the factors."""
    return start(net, seed, whole_weights(net))


def whole_weights(net: Net) -> frozenset[str]:
    """Return the names of the parameters trained when there are no factors."""
    return (net.trainable | {site.weight for site in net.sites}) - net.factors


def start(net: Net, seed: int, trained: Iterable[str]) -> State:
    """Return the first state: ``trained`` and the statistics are shared, everything else is base.

    Keys are in alphabetical order, which is how they come off the wire and the disk, so that sums over keys have
    one order everywhere.
    """
    keys = set(trained)
    shared = tree.select(net.params, keys) | tree.select(net.buffers, net.statistics)
    base = tree.omit(net.params, keys)
    return State(seed, 0, 0, dict(sorted(base.items())), dict(sorted(shared.items())), {}, {})


def down(net: Net, state: State, profile: Profile) -> Down:
    """Send what is shared."""
    return Down(state.shared, {}, state.seed, state.round + 1, state.version)


def begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    """Train what was received."""
    return down.shared


def up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    """Send what was trained; keep nothing."""
    return Up(train), client_state


def reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    """Sum what clients sent, weighted, in client order."""
    shared = tree.weighted_sum((up.shared for up in ups), weights)
    aux = tree.weighted_sum((up.aux for up in ups), weights)
    return Total(sum(weights), Up(shared, aux), {})


def average(net: Net, state: State, total: Total) -> State:
    """Replace what is shared by the weighted mean."""
    mean = tree.scale(total.sum.shared, 1 / total.weight)
    shared = tree.cast_like(mean, state.shared)
    return state._replace(round=state.round + 1, shared=shared, increment={}, notes={})


def values(net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
    """Count all parameters and statistics, each way."""
    each = whole_counts(net, whole_weights(net))
    return Values(each, each)


def whole_counts(net: Net, trained: Iterable[str]) -> dict[str, int]:
    """Count the values of parameters sent whole, and of the statistics beside them."""
    return {
        "dense": sum(net.params[key].numel() for key in trained),
        "statistics": sum(net.buffers[key].numel() for key in net.statistics),
    }
