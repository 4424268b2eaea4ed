"""A net with square layers, which detect transposes, and clients of different ranks that reply with noise."""

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

MIXED_RANKS: tuple[Profile, ...] = (with_rank(1), with_rank(2), ())
FULL_RANK: tuple[Profile, ...] = ((), (), ())
WEIGHTS = (3.0, 1.0, 7.0)
SHARES = tuple(weight / sum(WEIGHTS) for weight in WEIGHTS)


def square_net(rank: int = 3, alpha: float = 4.5, ranks: dict[str, int] | None = None) -> Net:
    """Return a net with factors for a convolution 4 → 4 and linear layers 36 → 6 and 6 → 6, and a dense head."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(36, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        )
    return nets.attach(model.double(), rank=rank, alpha=alpha, ranks=ranks, targets=("0", "2", "3"))


class Round(NamedTuple):
    """One round: the messages to and from each client, and the states before and after it."""

    before: State
    downs: list[Down]
    ups: list[Up]
    after: State


def run_rounds(net: Net, method: Method, rounds: int, profiles: tuple[Profile, ...], size: float = 0.3) -> list[Round]:
    """Return rounds in which every client adds noise to its initial tree."""
    state, history = method.init(net, 3), []
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
        history.append(Round(state, downs, ups, after))
        state = after
    return history


def dense(site: Site, factors: tree.Params) -> Tensor:
    """Return BA (o, i) as a dense matrix."""
    a, b = factors[site.a].reshape(-1, site.i), factors[site.b].reshape(site.o, -1)
    return torch.einsum("or,ri->oi", b, a)


def effective(net: Net, tensors: tree.Params) -> dict[str, Tensor]:
    """Return W + s·BA of each site as a dense matrix."""
    return {s.weight: tensors[s.weight].reshape(s.o, s.i) + s.scale * dense(s, tensors) for s in net.sites}


def server_weights(net: Net, method: Method, state: State) -> dict[str, Tensor]:
    """Return W + s·BA of each site of the server's model."""
    return effective(net, shared_model(net, method, state))


def best_approximation(matrix: Tensor, rank: int) -> Tensor:
    """Return the best approximation of ``matrix`` of rank ``rank``."""
    u, sigma, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] @ torch.diag(sigma[:rank]) @ vt[:rank]


def allclose(x: Tensor, y: Tensor, tolerance: float = 1e-9) -> bool:
    """Return whether two tensors are equal within ``tolerance``."""
    return torch.allclose(x, y, rtol=0, atol=tolerance)


def client_tensors(net: Net, method: Method, state: State, down: Down, profile: Profile) -> tree.Params:
    """Return the tensors of the forward pass in the first step of a client."""
    train = method.begin(net, down, {}, profile)
    return net.buffers | state.base | (train if method.expand is None else method.expand(net, train, down))
