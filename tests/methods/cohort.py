"""A small net, and clients that reply with noise, which tests servers without training."""

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


def small_net(rank: int = 2, alpha: float = 3.0, dtype: torch.dtype = torch.float64) -> Net:
    """Return a net with factors for a convolution 2 → 4 and a linear layer 16 → 5, with BatchNorm and a dense head."""
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


def replies(state: State, size: float = 0.3) -> list[Up]:
    """Return the messages of three clients: the shared tensors plus a different noise for each client."""
    ups = []
    for client in range(len(WEIGHTS)):
        g = gen(5, "noise", state.round, client)
        noise = {key: torch.randn(value.shape, generator=g).to(value) for key, value in state.shared.items()}
        ups.append(Up(tree.map(lambda t, n: t + size * n, state.shared, noise)))
    return ups


def step(net: Net, method: Method, state: State, ups: list[Up]) -> State:
    """Return the state after one round, with a separate ``reduce`` for each reply."""
    total = NOTHING
    for up, weight in zip(ups, WEIGHTS, strict=True):
        part = method.reduce(net, state, Down(state.shared), [up], [weight])
        total = total.join(part, net)
    return method.server(net, state, total)


def run_rounds(net: Net, method: Method, rounds: int, seed: int = 3) -> Iterator[tuple[State, list[Up], State]]:
    """Yield the state before each round, the messages of the clients, and the state after the round."""
    state = method.init(net, seed)
    for _ in range(rounds):
        ups = replies(state)
        after = step(net, method, state, ups)
        yield state, ups, after
        state = after


def mean(ups: list[Up]) -> tree.Params:
    """Return Σ p_k x_k."""
    return {key: sum(p * up.shared[key] for p, up in zip(SHARES, ups, strict=True)) for key in ups[0].shared}


def close(x: tree.Params, y: tree.Params, tolerance: float = 1e-10) -> bool:
    """Return whether two trees have the same keys, and values within ``tolerance``."""
    return x.keys() == y.keys() and all(torch.allclose(x[k], y[k], rtol=0, atol=tolerance) for k in x)


def keeps_dtypes(net: Net, tensors: tree.Params) -> bool:
    """Return whether each tensor has the same dtype as in the model."""
    own = net.params | net.buffers
    return all(tensor.dtype == own[key].dtype for key, tensor in tensors.items())
