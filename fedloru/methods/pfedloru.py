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
from typing import Literal, Unpack

import torch

from fedloru import lowrank, tree
from fedloru.method import Down, Method, Phase, Profile, Up
from fedloru.methods.fedloru import Switches, fedloru
from fedloru.methods.settings import expect, extends, one_of, refuse
from fedloru.net import Net
from fedloru.tree import Params


@extends(fedloru)
def pfedloru(
    *,
    private_rank: int | None = None,
    private_scale: float = 1.0,
    private_epochs: int = 1,
    first: Literal["private", "shared"] = "private",
    **switches: Unpack[Switches],
) -> Method:
    """Return pFedLoRU. Values each way: FedLoRU's; the private pair is never sent.

    Args:
        private_rank: the rank r_p of the private pair, at most that of its weight; None: the rank of the site.
        private_scale: the scale s_p of the private product.
        private_epochs: local epochs of the private phase; the shared phase has those of the recipe.
        first: which phase comes first.
        switches: those of ``fedloru``.

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
    inner = fedloru(**switches)
    own = {"private_rank": private_rank, "private_scale": private_scale, "private_epochs": private_epochs}
    return inner._replace(
        name="pfedloru",
        config=inner.config | own | {"first": first},
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
        private = {f"{key}.private": value for key, value in lowrank.fresh(pairs, down.seed, 0, down.shared).items()}
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
