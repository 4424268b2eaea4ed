"""A small net, and clients that answer with noise: what a server does with it needs no training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from fedloru import net as nets
from fedloru import tree
from fedloru.method import NOTHING, Down, Method, State, Up
from fedloru.net import Net
from fedloru.rng import gen

WEIGHTS = (3.0, 1.0, 7.0)
SHARES = tuple(weight / sum(WEIGHTS) for weight in WEIGHTS)


def small(rank: int = 2, alpha: float = 3.0, dtype: torch.dtype = torch.float64) -> Net:
    """Return a convolution 2 → 4 and a linear 16 → 5 with factors, BatchNorm and a dense head between and after."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.Linear(16, 5),
            nn.Linear(5, 3, bias=False),
        )
    return nets.attach(model.to(dtype), rank=rank, alpha=alpha, targets=("0", "3"))


def answers(state: State, size: float = 0.3) -> list[Up]:
    """Return what three clients send: what they received, and noise of their own."""
    ups = []
    for client in range(len(WEIGHTS)):
        g = gen(5, "noise", state.round, client)
        noise = {key: torch.randn(value.shape, generator=g).to(value) for key, value in state.shared.items()}
        ups.append(Up(tree.map(lambda t, n: t + size * n, state.shared, noise)))
    return ups


def step(net: Net, method: Method, state: State, ups: list[Up]) -> State:
    """Return the state after one round, whose replies come in one by one."""
    total = NOTHING
    for up, weight in zip(ups, WEIGHTS, strict=True):
        part = method.reduce(net, state, Down(state.shared), [up], [weight])
        total = total.join(part, net)
    return method.server(net, state, total)


def play(net: Net, method: Method, rounds: int, seed: int = 3) -> Iterator[tuple[State, list[Up], State]]:
    """Yield the state before each round, what clients sent, and the state after it."""
    state = method.init(net, seed)
    for _ in range(rounds):
        ups = answers(state)
        after = step(net, method, state, ups)
        yield state, ups, after
        state = after


def mean(ups: list[Up]) -> tree.Params:
    """Return Σ p_k x_k."""
    return {key: sum(p * up.shared[key] for p, up in zip(SHARES, ups, strict=True)) for key in ups[0].shared}


def close(x: tree.Params, y: tree.Params, tolerance: float = 1e-10) -> bool:
    """Say whether two trees agree."""
    return x.keys() == y.keys() and all(torch.allclose(x[k], y[k], rtol=0, atol=tolerance) for k in x)


def keeps_types(net: Net, tensors: tree.Params) -> bool:
    """Say whether each tensor has the type that it has in the model."""
    own = net.params | net.buffers
    return all(tensor.dtype == own[key].dtype for key, tensor in tensors.items())
