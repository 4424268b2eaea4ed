"""pFedLoRU: FedLoRU with a private low-rank pair on every client, for clients with different data.

Park and Klabjan, arXiv 2409.12371 (the variant is in the paper, and not in the published code)::

    client k   owns L_k (r_p × i) and U_k (o × r_p), never sent; its layer computes with W + s·BA + s_p·U_k L_k
               1. trains L_k, U_k with A, B, θ frozen      2. trains A, B, θ with L_k, U_k frozen
    server     FedLoRU's, on A, B, θ alone

U_k starts at 0, L_k at a draw that all clients share. Private pairs live through rounds, merges and restarts. To the
layer, the private pair is extra rank: [A; L_k] and [B, (s_p/s)·U_k]. The order of the two phases and their epochs are
settings, since the paper's text leaves them open.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.lowrank.algebra import Init
from fedloru.method import Down, Method, Phase, Profile, Up
from fedloru.methods.fedloru import Tau, fedloru
from fedloru.methods.settings import expect, one_of, refuse
from fedloru.net import Net
from fedloru.tree import Params


def pfedloru(
    *,
    private_rank: int | None = None,
    private_scale: float = 1.0,
    private_epochs: int = 1,
    first: Literal["private", "shared"] = "private",
    tau: Tau = 10,
    reset: Literal["fresh", "keep"] = "fresh",
    base: Literal["model", "zero"] = "model",
    init: Init = "a",
    accumulate: Literal["factors", "exact"] = "factors",
    accumulate_rank: int | None = None,
) -> Method:
    """Return pFedLoRU. Values each way: FedLoRU's; the private pair is never sent.

    Args:
        private_rank: the rank r_p of the private pair, at most that of its weight; None: the rank of the site.
        private_scale: the scale s_p of the private product.
        private_epochs: local epochs of the private phase; the shared phase has those of the recipe.
        first: which phase comes first.

    The other switches are those of ``fedloru``.

    Raises:
        ConfigError: a setting is out of range.
    """
    refuse(
        "pfedloru",
        expect(private_rank is None or private_rank >= 1, "private_rank", private_rank, "1 or more, or nothing"),
        expect(private_scale > 0, "private_scale", private_scale, "a number above 0"),
        expect(private_epochs >= 1, "private_epochs", private_epochs, "1 or more"),
        one_of("first", first, ("private", "shared")),
    )
    inner = fedloru(tau=tau, reset=reset, base=base, init=init, accumulate=accumulate, accumulate_rank=accumulate_rank)
    pairs = partial(_pairs, private_rank, private_scale)
    own = {"private_rank": private_rank, "private_scale": private_scale, "private_epochs": private_epochs}
    return inner._replace(
        name="pfedloru",
        config=inner.config | own | {"first": first},
        begin=partial(_begin, pairs),
        expand=partial(_expand, pairs),
        up=partial(_up, pairs),
        phases=partial(_phases, pairs, private_epochs, first == "shared"),
    )


def _pairs(rank: int | None, scale: float, net: Net) -> tuple[Site, ...]:
    """Return the private pairs as sites of their own on the same weights."""
    return tuple(
        site._replace(
            a=f"{site.a}.private", b=f"{site.b}.private", rank=min(rank or site.rank, site.o, site.i), scale=scale
        )
        for site in net.sites
    )


def _keys(pairs: partial[tuple[Site, ...]], net: Net) -> list[str]:
    return [key for pair in pairs(net) for key in pair.keys]


def _begin(pairs: partial[tuple[Site, ...]], net: Net, down: Down, own: Params, profile: Profile) -> Params:
    like = {f"{key}.private": down.shared[key] for key in net.factors}
    pair = own or lowrank.fresh(pairs(net), down.seed, 0, like)
    return dict(sorted((down.shared | pair).items()))


def _expand(pairs: partial[tuple[Site, ...]], net: Net, train: Params, down: Down) -> Params:
    wide = tree.omit(train, _keys(pairs, net))
    for site, pair in zip(net.sites, pairs(net), strict=True):
        wide[site.a] = torch.cat([train[site.a], train[pair.a]], 0)
        wide[site.b] = torch.cat([train[site.b], train[pair.b] * (pair.scale / site.scale)], 1)
    return wide


def _up(
    pairs: partial[tuple[Site, ...]], net: Net, train: Params, down: Down, own: Params, steps: int
) -> tuple[Up, Params]:
    private = _keys(pairs, net)
    return Up(tree.omit(train, private)), tree.select(train, private)


def _phases(
    pairs: partial[tuple[Site, ...]], epochs: int, shared_first: bool, net: Net, train: Params
) -> tuple[Phase, ...]:
    private = frozenset(_keys(pairs, net))
    phases = (Phase(private, epochs), Phase(frozenset(train.keys() - private - net.buffers.keys())))
    return phases[::-1] if shared_first else phases
