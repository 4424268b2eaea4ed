"""Accumulating low-rank updates into the base: in which rounds, of what, and what that does to the state.

FedLoRU and FedMUD merge the factors of the mean client; FedEx-LoRA, FLoRA and ``fedloru(accumulate="exact")`` the mean
of the clients' products, Σ p_k B_k A_k = [p_1 B_1 … p_K B_K] [A_1; …; A_K], whose factors are stacked on their way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedloru import lowrank
from fedloru.method import Down, State, Total, Up
from fedloru.methods.fedavg import reduce
from fedloru.methods.settings import expect
from fedloru.net import Net
from fedloru.tree import Params

Tau = float | Sequence[int]
"""The accumulation cycle: rounds from one merge to the next (``inf``: never), or a list of the rounds themselves."""


def check_cycle(name: str, tau: Tau) -> str | None:
    """Return what is wrong with the cycle that the setting ``name`` gives, or None."""
    cycles: list[Any] = [tau] if isinstance(tau, int | float) else list(tau)
    whole = all(isinstance(c, int | float) and c >= 1 and (c == math.inf or c == int(c)) for c in cycles)
    return expect(bool(cycles) and whole, name, tau, "a whole number of rounds from 1, a list of them, or inf")


def is_merge_round(tau: Tau, round: int) -> bool:
    """Say whether the server accumulates at the end of ``round``, counted from 1."""
    if isinstance(tau, int | float):
        return math.isfinite(tau) and round % int(tau) == 0
    return round in tau


def merged(net: Net, state: State, increment: Params) -> State:
    """Return the state after W ← W + s·BA, with the version one higher; the live factors stay as they are."""
    base = lowrank.merge(net.sites, state.base, increment)
    return state._replace(version=state.version + 1, base=base, increment=increment)


def stacked(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    """Sum what clients sent, and stack their factors too; a ``reduce`` for ``Method``."""
    stack = lowrank.stack(net.sites, [(w, up.shared) for w, up in zip(weights, ups, strict=True)])
    return reduce(net, state, down, ups, weights)._replace(stack=stack)


def mean_product(net: Net, total: Total) -> Params:
    """Return factors, in float32 or better, whose product is the mean of the clients' products."""
    return lowrank.stack(net.sites, [(1 / total.weight, total.stack)])


def truncated(net: Net, factors: Params, rank: int) -> tuple[Params, float]:
    """Return the best factors of ``rank`` for every site, and the largest relative error ‖BA − B'A'‖_F / ‖BA‖_F."""
    cut = [lowrank.truncate(site, factors, rank) for site in net.sites]
    return {key: value for best, _ in cut for key, value in best.items()}, max(error for _, error in cut)
