"""FedOpt: an optimizer on the server, whose gradient is the averaged change.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021,
arXiv 2003.00295. With Δ = Σ p_k (x_k − x)::

    momentum   m ← β₁ m + Δ                 x ← x + η m          (Hsu, Qi, Brown, arXiv 1909.06335)
    adagrad    v ← v + Δ²                   x ← x + η m / (√v + ε)
    adam       v ← β₂ v + (1 − β₂) Δ²       x ← x + η m / (√v + ε)
    yogi       v ← v − (1 − β₂) Δ² sign(v − Δ²)

with m ← β₁ m + (1 − β₁) Δ for the last three, v starting at ε², and no bias correction, as in the paper.
Statistics are averaged plainly. At a merge the moments of the factors return to their start: the new factors are
other variables. With ``accumulate="exact"`` the merged product would bypass the optimizer, so that is refused.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from fedloru import tree
from fedloru.method import Method, State, Total, Up
from fedloru.methods.settings import expect, one_of, refuse
from fedloru.methods.wrappers.record import wrapped
from fedloru.net import Net
from fedloru.tree import Params

Rule = Literal["momentum", "adagrad", "adam", "yogi"]
FIRST, SECOND = "server_opt.m.", "server_opt.v."


def server_opt(
    method: Method,
    *,
    rule: Rule = "momentum",
    lr: float | None = None,
    beta1: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-3,
) -> Method:
    """Return ``method`` whose average goes through a server optimizer first.

    ``lr`` is η: where left out, 1 for momentum, and 0.01 for the adaptive rules, whose steps have the size of η.

    Raises:
        ConfigError: a setting is out of range, or the method stacks factors, so that its merges would bypass the
            optimizer.
    """
    remedy = "accumulate = 'factors'" if "accumulate" in method.config else "fedlora or fedloru"
    if lr is None:
        lr = 1.0 if rule == "momentum" else 0.01
    bypassed = f"{method.name} merges what clients sent, not the optimizer's result; use {remedy}"
    inside = any(wrap["name"] == "scaffold" for wrap in method.config.get("wrap", []))
    order = "scaffold counts clients, which the optimizer's result has none of: wrap it around server_opt"
    weighed = f"{method.name} weighs clients in its own way, and no average stands before it; use server rule 'none'"
    refuse(
        "server_opt",
        bypassed if method.stacks else None,
        order if inside else None,
        weighed if method.own_weights else None,
        one_of("rule", rule, get_args(Rule)),
        *(expect(0 < x < math.inf, name, x, "a number above 0") for name, x in (("lr", lr), ("eps", eps))),
        *(
            expect(0 <= x < 1, name, x, "a number from 0 to below 1")
            for name, x in (("beta1", beta1), ("beta2", beta2))
        ),
    )

    def init(net: Net, seed: int) -> State:
        state = method.init(net, seed)
        return state._replace(aux=state.aux | _moments(net, state.shared, eps))

    def server(net: Net, state: State, total: Total) -> State:
        mean = tree.scale(total.sum.shared, 1 / total.weight)
        moments: Params = {}
        stepped = dict(mean)
        for key in _optimised(net, mean):
            change = mean[key] - state.shared[key]
            m, v = state.aux[FIRST + key], state.aux[SECOND + key]
            m, v, step = _step(rule, change, m, v, beta1, beta2, eps)
            moments |= {FIRST + key: m, SECOND + key: v}
            stepped[key] = state.shared[key] + lr * step
        aux = tree.scale(total.sum.aux, 1 / total.weight)
        after = method.server(net, state._replace(aux=state.aux | moments), Total(1.0, Up(stepped, aux), {}))
        if after.version == state.version:
            return after
        factors = tree.select(after.shared, net.factors & after.shared.keys())
        return after._replace(aux=after.aux | _moments(net, factors, eps))

    config = {"rule": rule, "lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps}
    return wrapped(method, "server_opt", config)._replace(init=init, server=server)


def _optimised(net: Net, shared: Params) -> list[str]:
    return [key for key in shared if key not in net.buffers]


def _moments(net: Net, shared: Params, eps: float) -> Params:
    """Return the moments at their start, in float32 or better: narrower ones would not add up."""
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
