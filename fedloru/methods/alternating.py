"""Alternating FedLoRU: one factor of every site is fixed with orthonormal columns, the other trained, in turn.

Ours. With q = 2r, A fixed at even versions and B at odd ones::

    clients   train B from 0, with W + s·BA and A Aᵀ = I           ("factors")
              or W itself, and send B = D Aᵀ/s, where D = W_k − W + E_k;  E_k ← D − s·BA stays with them   ("dense")
    server    B ← Σ p_k B_k,  θ ← Σ p_k θ_k
              every τ rounds:  W ← W + s·BA,  version += 1;  B ← orth(B) is fixed,  A ← 0 is trained next

and with A and B exchanged at odd versions. A reset of FedLoRU loses the subspace that clients have found: with B = 0,
the step of a client is limited to a random subspace of rank r. Here the next subspace is that of the increment, so
that the sequence of rounds is a power iteration on the updates of the cohort. The aggregate is exact, since the fixed
factor is the same on all clients. A client derives the next fixed factor from the increment, so it is never sent.

The leftover E_k is the error feedback of Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, arXiv
1809.07599. It is exact only if it is recent: after an absence of more than ``memory`` rounds, a client drops it. The
power iteration with error feedback is that of Vogels, Karimireddy and Jaggi, "PowerSGD", NeurIPS 2019, arXiv
1905.13727, who compress gradients in every step; here clients send the change of a round.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.method import Down, Method, Phase, Profile, State, Total, Traits, Up, Values, is_merge_round
from fedloru.methods import blocks
from fedloru.methods.blocks import Tau
from fedloru.net import Net
from fedloru.tree import Params

Local = Literal["factors", "dense"]
SAMPLE = 1024
"""The number of values of a weight that seed its first fixed factor."""
LEFTOVER, LAST = "alternating.leftover.", "alternating.round"
"""The keys of the leftover of a weight, and of the last round of a client, in its client state."""


def alternating(*, tau: Tau, local: Local, memory: int) -> Method:
    """Return alternating FedLoRU; ``fedloru`` describes its settings."""
    dense = local == "dense"
    return Method(
        init=_init,
        down=_down,
        begin=_begin_dense if dense else blocks.begin,
        up=partial(_up_dense, memory) if dense else blocks.up,
        phases=_phases if dense else None,
        reduce=blocks.reduce,
        server=partial(_server, tau),
        values=partial(_values, tau),
        traits=Traits(low_rank=True, cycle=tau),
    )


def _rank(site: Site) -> int:
    return min(2 * site.rank, site.o, site.i)


def _init(net: Net, seed: int) -> State:
    blocks.site_weights(net)
    state = blocks.init_shared(net, seed, net.trainable | net.factors)
    keys = [lowrank.fixed_key(site, 0) for site in net.sites]
    drawn = {
        key: lowrank.drawn_basis(site, key, _rank(site), _fingerprint(net, site)).to(net.params[key])
        for site, key in zip(net.sites, keys, strict=True)
    }
    base = dict(sorted((state.base | drawn).items()))
    return state._replace(base=base, shared=lowrank.restarted(net.sites, base, state.shared))


def _fingerprint(net: Net, site: Site) -> int:
    """Return a seed that follows from the model: a client that makes W₀ itself does not know the seed of the run."""
    start = net.params[site.weight].detach().flatten()[:SAMPLE]
    return int(tree.digest({"": start})[:12], 16)


def _down(net: Net, state: State, profile: Profile) -> Down:
    fresh = not state.round or bool(state.increment)
    sent = blocks.down(net, state, profile)
    return sent._replace(fresh="zero" if fresh else "", base=state.base)


def _begin_dense(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    """Train the weights; factors of rank 0 leave a layer with its weight alone."""
    start = _weights(net, down)
    empty = {
        key: down.base[site.weight].new_zeros(lowrank.factor_shape(site, key, 0))
        for site in net.sites
        for key in site.keys
    }
    return tree.omit(down.shared, net.factors) | start | empty


def _weights(net: Net, down: Down) -> Params:
    """Return the weights W + s·BA with which clients start."""
    weights = tree.select(down.base, [site.weight for site in net.sites])
    if down.fresh:
        return weights
    return tree.select(lowrank.merge(net.sites, down.base, down.base | down.shared), weights)


def _phases(net: Net, train: Params) -> tuple[Phase, ...]:
    return (Phase(frozenset(train.keys() - net.buffers.keys() - net.factors)),)


def _up_dense(memory: int, net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    sent, kept = Params(), Params()
    is_recent = LAST in client_state and down.round - int(client_state[LAST]) <= memory
    for site in net.sites:
        change = (train[site.weight] - down.base[site.weight]).flatten(1)  # with the received factor, if it is not 0
        if is_recent:
            change = change + client_state[LEFTOVER + site.weight]
        key = lowrank.trained_key(site, down.version)
        part, left = _projected(site, key, change, down.base)
        sent[key] = part.to(down.shared[key]).reshape(down.shared[key].shape)
        kept[LEFTOVER + site.weight] = left
    rest = tree.omit(train, [*net.factors, *(site.weight for site in net.sites)])
    state = kept | {LAST: torch.tensor(down.round)} if memory else {}
    return Up(dict(sorted((rest | sent).items()))), state


def _projected(site: Site, key: str, change: Tensor, base: Params) -> tuple[Tensor, Tensor]:
    """Return the factor ``key`` for which s·BA is the projection of ``change`` (o, i), and what is left over."""
    fixed = base[site.a if key == site.b else site.b].flatten(1)
    if key == site.b:
        factor = change @ fixed.T
        return factor / site.scale, change - factor @ fixed
    factor = fixed.T @ change
    return factor / site.scale, change - fixed @ factor


def _server(tau: Tau, net: Net, state: State, total: Total) -> State:
    state = blocks.average(net, state, total)
    if not is_merge_round(tau, state.round):
        return state
    trained = tree.select(state.shared, net.factors & state.shared.keys())
    whole = trained | tree.select(state.base, net.factors & state.base.keys())
    base = dict(sorted(lowrank.advance(net.sites, state.base, trained).items()))
    shared = lowrank.restarted(net.sites, base, state.shared)
    return state._replace(version=state.version + 1, base=base, shared=shared, increment=whole)


def _values(tau: Tau, net: Net, round: int, cohort: object, profile: Profile) -> Values:
    merges = _merges_before(tau, round)
    keys = [(site, lowrank.trained_key(site, merges)) for site in net.sites]
    half = sum(math.prod(lowrank.factor_shape(site, key, _rank(site))) for site, key in keys)
    is_fresh = round == 1 or is_merge_round(tau, round - 1)
    rest = blocks.count_dense(net, net.trainable - net.factors)
    down, up = rest | {"factors": 0 if is_fresh else half}, rest | {"factors": half}
    return Values(down, up, half if is_merge_round(tau, round) else 0)


def _merges_before(tau: Tau, round: int) -> int:
    if isinstance(tau, int | float):
        return int((round - 1) // tau) if math.isfinite(tau) else 0
    return sum(merge < round for merge in set(tau))
