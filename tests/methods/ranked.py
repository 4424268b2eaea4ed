"""Square layers, where a wrong transpose shows, and clients of different rank that answer with noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedloru import net as nets
from fedloru import tree
from fedloru.evaluate import shared_model
from fedloru.lowrank import Site
from fedloru.method import NOTHING, Down, Method, Profile, State, Up
from fedloru.methods.ranks import with_rank
from fedloru.net import Net
from fedloru.rng import gen

RANKED: tuple[Profile, ...] = (with_rank(1), with_rank(2), ())
SAME: tuple[Profile, ...] = ((), (), ())
WEIGHTS = (3.0, 1.0, 7.0)
SHARES = tuple(weight / sum(WEIGHTS) for weight in WEIGHTS)


def square(rank: int = 3, alpha: float = 4.5, ranks: dict[str, int] | None = None) -> Net:
    """Return a convolution 4 → 4, a linear layer 36 → 6 and one 6 → 6 with factors, and a dense head."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(36, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        )
    return nets.attach(model.double(), rank=rank, alpha=alpha, ranks=ranks, targets=("0", "2", "3"))


class Played(NamedTuple):
    """One round: what went down to each client, what came up, and the states around it."""

    before: State
    downs: list[Down]
    ups: list[Up]
    after: State


def play(net: Net, method: Method, rounds: int, profiles: tuple[Profile, ...], size: float = 0.3) -> list[Played]:
    """Return rounds in which every client adds noise to the tree that it began with."""
    state, played = method.init(net, 3), []
    for _ in range(rounds):
        total, downs, ups = NOTHING, [], []
        for client, (profile, weight) in enumerate(zip(profiles, WEIGHTS, strict=True)):
            down = method.down(net, state, profile)
            train = method.begin(net, down, {}, profile)
            g = gen(5, "noise", state.round, client)
            train = {k: v + size * torch.randn(v.shape, generator=g).to(v) for k, v in train.items()}
            up, _ = method.up(net, train, down, {}, 1)
            downs.append(down)
            ups.append(up)
            total = total.join(method.reduce(net, state, down, [up], [weight]), net)
        after = method.server(net, state, total)
        played.append(Played(state, downs, ups, after))
        state = after
    return played


def dense(site: Site, factors: tree.Params) -> Tensor:
    """Return BA (o, i), written out."""
    a, b = factors[site.a].reshape(-1, site.i), factors[site.b].reshape(site.o, -1)
    return torch.einsum("or,ri->oi", b, a)


def effective(net: Net, tensors: tree.Params) -> dict[str, Tensor]:
    """Return the dense matrix that each site computes with."""
    return {s.weight: tensors[s.weight].reshape(s.o, s.i) + s.scale * dense(s, tensors) for s in net.sites}


def served(net: Net, method: Method, state: State) -> dict[str, Tensor]:
    """Return the dense matrices of the server's own model."""
    return effective(net, shared_model(net, method, state))


def best(matrix: Tensor, rank: int) -> Tensor:
    """Return the nearest matrix of ``rank``."""
    u, sigma, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] @ torch.diag(sigma[:rank]) @ vt[:rank]


def same(x: Tensor, y: Tensor, tolerance: float = 1e-9) -> bool:
    """Say whether two tensors agree."""
    return torch.allclose(x, y, rtol=0, atol=tolerance)


def with_factors(net: Net, method: Method, state: State, down: Down, profile: Profile) -> tree.Params:
    """Return the tensors that a client computes with at its first step."""
    train = method.begin(net, down, {}, profile)
    return net.buffers | state.base | (train if method.expand is None else method.expand(net, train, down))
