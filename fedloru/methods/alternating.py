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
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.method import Down, Method, Phase, Profile, State, Total, Traits, Up, Values, is_merge_round
from fedloru.methods import blocks
from fedloru.methods.blocks import Tau
from fedloru.methods.ranks import rank_of
from fedloru.net import Net
from fedloru.tree import Params

Local = Literal["factors", "dense"]
LEFTOVER, LAST = "alternating.leftover.", "alternating.round"
"""The keys of the leftover of a weight, and of the last round of a client, in its client state."""
VERSION = "alternating.version"
"""The key of the version in the tree of a client of a lower rank, whose phase depends on it."""


def alternating(*, tau: Tau, local: Local, memory: int) -> Method:
    """Return alternating FedLoRU; ``fedloru`` describes its settings."""
    dense = local == "dense"
    return Method(
        init=_init,
        down=_down,
        begin=_begin_dense if dense else _begin,
        up=partial(_up_dense, memory) if dense else _up,
        phases=_phases,
        reduce=_reduce,
        server=partial(_server, tau),
        values=partial(_values, tau),
        traits=Traits(low_rank=True, ranks="one" if dense else "many", cycle=tau),
    )


def _rank(site: Site, profile: Profile = ()) -> int:
    return min(2 * rank_of(site, profile), site.o, site.i)


def _init(net: Net, seed: int) -> State:
    blocks.site_weights(net)
    state = blocks.init_shared(net, seed, net.trainable | net.factors)
    keys = [lowrank.fixed_key(site, 0) for site in net.sites]
    drawn = {
        key: lowrank.drawn_basis(site, key, _rank(site), seed).to(net.params[key])
        for site, key in zip(net.sites, keys, strict=True)
    }
    return _restarted(net, state._replace(base=dict(sorted((state.base | drawn).items()))))


def _restarted(net: Net, state: State) -> State:
    """Return ``state`` with the trained factors of its version, which are 0."""
    shared = tree.omit(state.shared, net.factors) | _zeros(net, state.version)
    return state._replace(shared=dict(sorted(shared.items())))


def _zeros(net: Net, version: int) -> Params:
    keys = {lowrank.trained_key(site, version): site for site in net.sites}
    return {key: net.params[key].new_zeros(lowrank.factor_shape(s, key, _rank(s))) for key, s in keys.items()}


def _down(net: Net, state: State, profile: Profile) -> Down:
    fresh = not state.round or bool(state.increment)
    if not _zeros(net, state.version).keys() <= state.shared.keys():  # of another version, such as the initial state
        state = _restarted(net, state)
    sent = blocks.down(net, state, profile)
    return sent._replace(fresh="zero" if fresh else "", base=state.base)


def _begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    """Train the factors; a client of a lower rank trains the first columns or rows, and the rest is in its weights."""
    if all(_rank(site, profile) == _rank(site) for site in net.sites):
        return down.shared
    cut: Params = {VERSION: torch.tensor(float(down.version))}
    for site in net.sites:
        for key in site.keys:
            whole = down.shared[key] if key in down.shared else down.base[key]
            cut[key] = _first(site, key, whole, _rank(site, profile))
    live = {} if down.fresh else _weights(net, down, _rest(net, down, profile))
    return down.shared | live | cut


def _first(site: Site, key: str, factor: Tensor, rank: int) -> Tensor:
    return factor[:rank] if key == site.a else factor[:, :rank]


def _rest(net: Net, down: Down, profile: Profile) -> Params:
    """Return the received factors with zeros in place of those that a client of this profile trains."""
    rest = tree.clone(tree.select(down.shared, net.factors & down.shared.keys()))
    for site in net.sites:
        key = lowrank.trained_key(site, down.version)
        _first(site, key, rest[key], _rank(site, profile)).zero_()
    return rest


def _begin_dense(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    """Train the weights; factors of rank 0 leave a layer with its weight alone."""
    start = _weights(net, down, down.shared)
    empty = {
        key: down.base[site.weight].new_zeros(lowrank.factor_shape(site, key, 0))
        for site in net.sites
        for key in site.keys
    }
    return tree.omit(down.shared, net.factors) | start | empty


def _weights(net: Net, down: Down, trained: Params) -> Params:
    """Return W + s·BA at every site, for trained factors and the fixed ones."""
    weights = tree.select(down.base, [site.weight for site in net.sites])
    if down.fresh:
        return weights
    return tree.select(lowrank.merge(net.sites, down.base, down.base | trained), weights)


def _phases(net: Net, train: Params) -> tuple[Phase, ...]:
    keys = train.keys() - net.buffers.keys()
    if VERSION in train:
        version = int(train[VERSION])
        keys -= {VERSION} | {key for site in net.sites for key in (site.weight, lowrank.fixed_key(site, version))}
    elif net.factors <= keys:
        keys -= net.factors
    return (Phase(frozenset(keys)),)


def _up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    return Up(tree.select(train, down.shared)), client_state


def _reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    """Add the messages, with what clients of a lower rank received in place of what they did not train."""
    whole = []
    for up in ups:
        shared = dict(up.shared)
        for site in net.sites:
            key = lowrank.trained_key(site, state.version)
            if shared[key].shape != down.shared[key].shape:
                axis = 0 if key == site.a else 1
                rest = down.shared[key].narrow(axis, shared[key].shape[axis], _rank(site) - shared[key].shape[axis])
                shared[key] = torch.cat([shared[key], rest], axis)
        whole.append(up._replace(shared=shared))
    return blocks.reduce(net, state, down, whole, weights)


def _up_dense(memory: int, net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    weights, sent, kept = _weights(net, down, down.shared), {}, Params()
    is_recent = LAST in client_state and down.round - int(client_state[LAST]) <= memory
    for site in net.sites:
        change = (train[site.weight] - weights[site.weight]).flatten(1)
        if is_recent:
            change = change + client_state[LEFTOVER + site.weight]
        key = lowrank.trained_key(site, down.version)
        part, left = _projected(site, key, change, down.base)
        sent[key] = down.shared[key] + part.to(down.shared[key]).reshape(down.shared[key].shape)
        kept[LEFTOVER + site.weight] = left
    rest = tree.omit(train, [*net.factors, *weights])
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
    base = lowrank.advance(net.sites, state.base, trained)
    merged = state._replace(version=state.version + 1, base=dict(sorted(base.items())), increment=whole)
    return _restarted(net, merged)


def _values(tau: Tau, net: Net, round: int, cohort: object, profile: Profile) -> Values:
    merges = _merges_before(tau, round)
    keys = [(site, lowrank.trained_key(site, merges)) for site in net.sites]
    half, own = (
        sum(math.prod(lowrank.factor_shape(site, key, _rank(site, each))) for site, key in keys)
        for each in ((), profile)
    )
    is_fresh = round == 1 or is_merge_round(tau, round - 1)
    rest = blocks.count_dense(net, net.trainable - net.factors)
    down, up = rest | {"factors": 0 if is_fresh else half}, rest | {"factors": own}
    return Values(down, up, half if is_merge_round(tau, round) else 0)


def _merges_before(tau: Tau, round: int) -> int:
    if isinstance(tau, int | float):
        return int((round - 1) // tau) if math.isfinite(tau) else 0
    return sum(merge < round for merge in set(tau))
