"""pFedLoRU: FedLoRU with a private low-rank pair on every client, for clients with different data.

Park and Klabjan, arXiv 2409.12371 (the variant is in the paper, but not in the published code)::

    client k   owns L_k (r_p × i) and U_k (o × r_p), never sent; its layer computes with W + s·BA + s_p·U_k L_k
               1. trains L_k, U_k with A, B, θ frozen      2. trains A, B, θ with L_k, U_k frozen
    server     as in FedLoRU, on A, B, θ only

U_k starts at 0, and L_k at a draw that is the same for all clients. Private pairs persist through rounds, merges and
restarts. The layer sees the private pair as additional ranks: [A; L_k] and [B, (s_p/s)·U_k]. The order of the two
phases and the epochs of the private phase are settings, since the paper does not specify them.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, Unpack

import torch

from fedloru import lowrank, tree
from fedloru.method import Down, Method, Phase, Profile, Up
from fedloru.methods.declare import method
from fedloru.methods.paper import Settings, paper
from fedloru.net import Net
from fedloru.settings.types import Count, Positive
from fedloru.tree import Params


@method(
    trained="A, B, private pair",
    aggregate="inexact",
    rank="r·T/τ",
    client_state="the pair",
    source="2409.12371",
    cases={"": {"tau": 2, "private_rank": 1, "private_scale": 0.5, "private_epochs": 1}},
    extends=paper,
)
def pfedloru(
    *,
    private_rank: Count | None = None,
    private_scale: Positive = 1.0,
    private_epochs: Count = 1,
    first: Literal["private", "shared"] = "private",
    **settings: Unpack[Settings],
) -> Method:
    """pFedLoRU: FedLoRU with a private pair of factors on every client, which is never sent.

    Values in each direction: as FedLoRU.

    Args:
        private_rank: the rank r_p of the private pair, at most the rank of its weight; by default the rank of the
            factors.
        private_scale: the scale s_p of the private product.
        private_epochs: the number of local epochs of the private phase; the shared phase runs client.epochs.
        first: the phase that comes first.
        settings: the settings of FedLoRU.
    """
    inner = paper(**settings)
    return inner._replace(
        traits=inner.traits._replace(several_phases=True),
        begin=partial(_begin, private_rank),
        expand=partial(_expand, private_scale),
        up=_up,
        phases=partial(_phases, private_epochs, first),
    )


def _private(net: Net) -> list[str]:
    return [f"{key}.private" for site in net.sites for key in site.keys]


def _begin(rank: int | None, net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    private = client_state
    if not private:
        pairs = [site._replace(rank=min(rank or site.rank, site.o, site.i)) for site in net.sites]
        drawn = lowrank.init_factors(pairs, down.seed, 0, down.shared)
        private = {f"{key}.private": value for key, value in drawn.items()}
    return dict(sorted((down.shared | private).items()))


def _expand(scale: float, net: Net, train: Params, down: Down) -> Params:
    wide = tree.omit(train, _private(net))
    for site in net.sites:
        low, up = train[f"{site.a}.private"], train[f"{site.b}.private"]
        wide[site.a] = torch.cat([train[site.a], low], 0)
        wide[site.b] = torch.cat([train[site.b], up * (scale / site.scale)], 1)
    return wide


def _up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    private = _private(net)
    return Up(tree.omit(train, private)), tree.select(train, private)


def _phases(epochs: int, first: str, net: Net, train: Params) -> tuple[Phase, ...]:
    private = frozenset(_private(net))
    phases = (Phase(private, epochs), Phase(frozenset(train.keys() - private - net.buffers.keys())))
    return phases if first == "private" else phases[::-1]
