"""RoLoRA: train B and A in alternate rounds.

Chen, Ju, Dalal, Zhu, Khisti, "Robust Federated Finetuning of Foundation Models via Alternating Minimization of LoRA",
arXiv 2409.02346::

    clients   minimise f_k(W + s·BA; θ) over (B, θ) in odd rounds, over (A, θ) in even ones;  W stays frozen
    server    B ← Σ p_k B_k  or  A ← Σ p_k A_k,  and θ ← Σ p_k θ_k

The aggregate is exact in every round, since the half that is not trained is the same on all clients.

Clients send only the trained half. The paper counts, for the download, only the half that changed in the previous
round. That is enough for a client that took part in that round, but other clients have an old copy of the other half.
The server does not keep track of this: it sends both halves, and none in round 1, when they are fresh. The paper has no
θ.
"""

from __future__ import annotations

from fedloru import tree
from fedloru.method import Down, Method, Profile, State, Total, Values
from fedloru.methods.blocks import average, count_dense
from fedloru.methods.declare import method
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net
from fedloru.tree import Params


@method(trained="B and A in turn", aggregate="exact", rank="r", source="2409.02346")
def rolora() -> Method:
    """RoLoRA: trains and averages the factors of a frozen model in turn: B in odd rounds, A in even rounds.

    Values up: r·o for each site in odd rounds, r·i in even rounds, and θ. Values down: r(o + i) for each site, and θ.
    """
    return fedlora()._replace(
        begin=_begin,
        expand=_expand,
        server=_server,
        values=lambda net, round, cohort, profile: _values(net, round),
    )


def _frozen(net: Net, round: int) -> frozenset[str]:
    """Return the keys of the half that is frozen in ``round``, counted from 1."""
    return frozenset(site.a if round % 2 else site.b for site in net.sites)


def _begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    return tree.omit(down.shared, _frozen(net, down.round))


def _expand(net: Net, train: Params, down: Down) -> Params:
    return train | tree.select(down.shared, sorted(_frozen(net, down.round)))


def _server(net: Net, state: State, total: Total) -> State:
    after = average(net, state, total)
    return after._replace(shared=state.shared | after.shared)


def _values(net: Net, round: int) -> Values:
    rest = count_dense(net, net.trainable - net.factors)
    both = 0 if round == 1 else sum(site.values() for site in net.sites)
    half = sum(site.rank * (site.o if round % 2 else site.i) for site in net.sites)
    return Values(rest | {"factors": both}, rest | {"factors": half})
