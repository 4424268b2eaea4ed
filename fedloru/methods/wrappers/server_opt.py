"""FedOpt: an optimizer on the server that takes the averaged update as its gradient.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021,
arXiv 2003.00295. With Δ = Σ p_k (x_k − x)::

    momentum   m ← β₁ m + Δ                 x ← x + η m          (Hsu, Qi, Brown, arXiv 1909.06335)
    adagrad    v ← v + Δ²                   x ← x + η m / (√v + ε)
    adam       v ← β₂ v + (1 − β₂) Δ²       x ← x + η m / (√v + ε)
    yogi       v ← v − (1 − β₂) Δ² sign(v − Δ²)

with m ← β₁ m + (1 − β₁) Δ for the last three, the initial v = ε², and no bias correction, as in the paper. Statistics
are averaged without the optimizer. After a merge, the factors are new variables, and their moments are reset. Methods
whose merge would bypass the optimizer, such as FedLoRU with ``accumulate="exact"``, are not supported.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from fedloru import tree
from fedloru.method import Method, State, Total, Up
from fedloru.methods.blocks import reject
from fedloru.methods.declare import wrapper
from fedloru.net import Net
from fedloru.settings import short
from fedloru.settings.types import Positive, Share, When
from fedloru.tree import Params

Rule = Literal["momentum", "adagrad", "adam", "yogi"]
FIRST, SECOND = "server_opt.m.", "server_opt.v."


@wrapper(
    cases={
        "server-momentum": ("fedloru", {"tau": 2}, {"rule": "momentum", "lr": 0.7}),
        "server-adam": ("fedloru", {"tau": 2}, {"rule": "adam", "lr": 0.05}),
        "server-yogi": ("fedavg", {}, {"rule": "yogi", "lr": 0.05}),
        "server-adagrad": ("fedlora", {}, {"rule": "adagrad", "lr": 0.05}),
    },
    section="server",
)
def server_opt(
    method: Method,
    *,
    rule: Rule = "momentum",
    lr: Positive | None = None,
    beta1: Share = 0.9,
    beta2: Annotated[Share, When("rule", ("adam", "yogi"))] = 0.99,
    eps: Annotated[Positive, When("rule", ("adagrad", "adam", "yogi"))] = 1e-3,
) -> Method:
    """FedOpt: the server applies the averaged update with an optimizer.

    Args:
        rule: the optimizer.
        lr: the server's learning rate η; by default 1 for momentum, and 0.01 for the other rules, whose steps have a
            size of about η.
        beta1: the decay rate of the first moment.
        beta2: the decay rate of the second moment.
        eps: a constant added to the square root of the second moment.
    """
    alternative = "method.accumulate = 'factors'" if "accumulate" in method.config else "fedlora or fedloru"
    bypassed = (
        f"{short(method.name)} merges what clients sent, not the optimizer's result: use {alternative}, or rule 'none'"
    )
    inside = any(wrap["name"] == "scaffold" for wrap in method.config.get("wrap", []))
    order = "scaffold needs the messages of all clients, not the optimizer's result: wrap scaffold around server_opt"
    reweighted = f"{short(method.name)} has its own weights, so the optimizer has no average to apply: use rule 'none'"
    unsummed = "server_opt needs the sum of what clients sent: wrap robust around server_opt"
    reject(
        "server_opt",
        bypassed if method.traits.stacks else None,
        order if inside else None,
        reweighted if method.traits.reweights else None,
        unsummed if method.traits.keeps_replies else None,
    )
    rate = lr if lr is not None else 1.0 if rule == "momentum" else 0.01

    def init(net: Net, seed: int) -> State:
        state = method.init(net, seed)
        return state._replace(aux=state.aux | _moments(net, state.shared, eps))

    def server(net: Net, state: State, total: Total) -> State:
        mean = tree.scale(total.sum.shared, 1 / total.weight)
        new = {key: value for key, value in state.shared.items() if FIRST + key not in state.aux}
        before = state.aux | _moments(net, new, eps)
        moments: Params = {}
        stepped = dict(mean)
        for key in _optimised(net, mean):
            change = mean[key] - state.shared[key]
            m, v = before[FIRST + key], before[SECOND + key]
            m, v, step = _step(rule, change, m, v, beta1, beta2, eps)
            moments |= {FIRST + key: m, SECOND + key: v}
            stepped[key] = state.shared[key] + rate * step
        aux = tree.scale(total.sum.aux, 1 / total.weight)
        after = method.server(net, state._replace(aux=state.aux | moments), Total(1.0, Up(stepped, aux), {}))
        if after.version == state.version:
            return after
        merged = [prefix + key for prefix in (FIRST, SECOND) for key in net.factors]
        factors = tree.select(after.shared, net.factors & after.shared.keys())
        return after._replace(aux=tree.omit(after.aux, merged) | _moments(net, factors, eps))

    return method._replace(init=init, server=server)


def _optimised(net: Net, shared: Params) -> list[str]:
    return [key for key in shared if key not in net.buffers]


def _moments(net: Net, shared: Params, eps: float) -> Params:
    """Return the initial moments, in float32 or wider, since narrower types would lose small updates."""
    work = {key: torch.promote_types(shared[key].dtype, torch.float32) for key in _optimised(net, shared)}
    first = {FIRST + key: torch.zeros_like(shared[key], dtype=dtype) for key, dtype in work.items()}
    second = {SECOND + key: torch.full_like(shared[key], eps**2, dtype=dtype) for key, dtype in work.items()}
    return first | second


def _step(
    rule: Rule, change: Tensor, m: Tensor, v: Tensor, beta1: float, beta2: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the new moments and the direction of the step."""
    if rule == "momentum":
        m = beta1 * m + change
        return m, v, m
    m = beta1 * m + (1 - beta1) * change
    squared = change.square()
    if rule == "adagrad":
        v = v + squared
    elif rule == "adam":
        v = beta2 * v + (1 - beta2) * squared
    else:
        v = v - (1 - beta2) * squared * torch.sign(v - squared)
    return m, v, m / (v.sqrt() + eps)
