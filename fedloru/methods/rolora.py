"""RoLoRA: train B and A in turn, one of them a round.

Chen, Ju, Dalal, Zhu, Khisti, "Robust Federated Finetuning of Foundation Models via Alternating Minimization of LoRA",
arXiv 2409.02346::

    clients   minimise f_k(W + s·BA; θ) over (B, θ) in odd rounds, over (A, θ) in even ones;  W is frozen for ever
    server    B ← Σ p_k B_k  or  A ← Σ p_k A_k,  and θ ← Σ p_k θ_k

The aggregate is exact in every round: the half that was not trained is the same on all clients.

Up goes the half that was trained. Down the paper counts the half that changed in the round before, which is enough for
a client that took part in that round; one that did not has an old copy of the other half. The server need not remember
who took part: it sends both halves, but none in round 1, where they are fresh. The paper has no θ.
"""

from __future__ import annotations

from fedloru import tree
from fedloru.method import Down, Method, Profile, State, Total, Values
from fedloru.methods.fedavg import average, whole_counts
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net
from fedloru.tree import Params


def rolora() -> Method:
    """Return RoLoRA. Values up: r·o a site in odd rounds, r·i in even ones; down: r(o + i); and θ each way."""
    return fedlora()._replace(
        name="rolora",
        config={},
        begin=_begin,
        expand=_expand,
        server=_server,
        values=lambda net, round, cohort, profile: _values(net, round),
    )


def _frozen(net: Net, round: int) -> frozenset[str]:
    """Return the keys of the half that is not trained in ``round``, counted from 1."""
    return frozenset(site.a if round % 2 else site.b for site in net.sites)


def _begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    return tree.omit(down.shared, _frozen(net, down.round))


def _expand(net: Net, train: Params, down: Down) -> Params:
    return train | tree.select(down.shared, sorted(_frozen(net, down.round)))


def _server(net: Net, state: State, total: Total) -> State:
    after = average(net, state, total)
    return after._replace(shared=state.shared | after.shared)


def _values(net: Net, round: int) -> Values:
    rest = whole_counts(net, net.trainable - net.factors)
    both = 0 if round == 1 else sum(site.values() for site in net.sites)
    half = sum(site.rank * (site.o if round % 2 else site.i) for site in net.sites)
    return Values(rest | {"factors": both}, rest | {"factors": half})
