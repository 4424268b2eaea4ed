"""FedLoRU as published: low-rank updates, accumulated into the model every τ rounds.

Park and Klabjan, "Communication-Efficient Federated Low-Rank Update Algorithm and its Connection to Implicit
Regularization", arXiv 2409.12371::

    clients   minimise f_k(W + s·BA; θ) over (A, B, θ)
    server    A ← Σ p_k A_k,  B ← Σ p_k B_k,  θ ← Σ p_k θ_k
              every τ rounds:  W ← W + s·BA,  version += 1,  fresh A, B

After T rounds the model is W₀ + s·Σ_j B⁽ʲ⁾A⁽ʲ⁾: every message has low rank, and the total update a rank of up to
(T/τ)·r. Clients apply the same increments to their copy of W, so a merge round costs a client as much as any other.

Where the published script differs from the paper, the defaults follow the paper, and settings select the behaviour of
the script: it never draws fresh factors (``reset="keep"``: the effective weight then jumps from W + sBA to W + 2sBA),
initializes W to 0 (``base="zero"``), draws B too (``init="both"``), and accepts a list of rounds for ``tau``.
``accumulate="exact"`` is our addition: in a merge round, the server has the factors of all clients, and can merge
s·Σ p_k B_k A_k without additional uploads.

After a reset, optimizer state of the old factors does not apply to the new ones. Clients create a new optimizer in
every round, so they are not affected; ``server_opt`` resets its moments of the factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, TypedDict

import torch

from fedloru import lowrank, tree
from fedloru.lowrank.algebra import Init
from fedloru.method import Down, Method, Profile, State, Total, Up, Values, is_merge_round
from fedloru.methods import blocks
from fedloru.methods.blocks import UNPLANNED, OpenTau, Tau
from fedloru.methods.fedlora import fedlora
from fedloru.net import Net
from fedloru.settings.types import Count
from fedloru.tree import Params

Reset = Literal["fresh", "keep"]
Base = Literal["model", "zero"]
Accumulate = Literal["factors", "exact"]


class Settings(TypedDict, total=False):
    """The settings of FedLoRU as published, which its variants also take."""

    tau: OpenTau
    reset: Reset
    base: Base
    init: Init
    accumulate: Accumulate
    accumulate_rank: Count | None


def paper(
    *,
    tau: OpenTau = None,
    reset: Reset = "fresh",
    base: Base = "model",
    init: Init = "a",
    accumulate: Accumulate = "factors",
    accumulate_rank: Count | None = None,
) -> Method:
    """FedLoRU as published: averages the factors of a frozen model, and merges them into the model every tau rounds.

    Values in each direction: r(o + i) for each site, and θ; down, fresh factors are not sent.

    Args:
        tau: the number of rounds between merges, a list of merge rounds, or inf to never merge (FedLoRA); by default
            a quarter of the rounds, or for the recipe `alternating` the mean number of rounds between two cohorts of a
            client, and at most a fifth of the rounds, rounded up.
        reset: the factors after a merge: `fresh` draws new ones, `keep` continues with the old ones as the published
            code does.
        base: the initial adapted weights: `model` takes the model's values, `zero` sets them to 0 as the published
            code does.
        init: the initial factors: `a` draws A and sets B to 0, so that the model is unchanged; `both` draws both.
        accumulate: the update that is merged: `factors` is the product of the averaged factors, `exact` the average of
            the clients' products, whose rank is at most P·r.
        accumulate_rank: the rank to which the exact increment is truncated; by default it is not truncated. The error
            is recorded in the row of the round.
    """
    exact, tau = accumulate == "exact", UNPLANNED if tau is None else tau
    inexact = "accumulate_rank truncates an exact increment: set accumulate = 'exact', or remove accumulate_rank"
    blocks.reject("fedloru", None if exact or accumulate_rank is None else inexact)
    inner = fedlora(init=init)
    return inner._replace(
        traits=inner.traits._replace(stacks=exact, cycle=tau),
        init=partial(_init, base, init),
        down=blocks.down_fresh(init, after_merges=reset == "fresh"),
        reduce=partial(_reduce, tau) if exact else inner.reduce,
        server=partial(_server, tau, init if reset == "fresh" else None, accumulate_rank),
        values=partial(_values, tau, reset, exact, accumulate_rank),
    )


def _init(base: Base, init: Init, net: Net, seed: int) -> State:
    state = blocks.init_low_rank(net, seed, init)
    if base == "model":
        return state
    zeros = {site.weight: torch.zeros_like(state.base[site.weight]) for site in net.sites}
    return state._replace(base=state.base | zeros)


def _reduce(tau: Tau, net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    reduce = blocks.stacked if is_merge_round(tau, state.round + 1) else blocks.reduce
    return reduce(net, state, down, ups, weights)


def _server(tau: Tau, reset: Init | None, rank: int | None, net: Net, state: State, total: Total) -> State:
    state = blocks.average(net, state, total)
    if not is_merge_round(tau, state.round):
        return state
    increment, notes = _increment(net, state, total, rank)
    state = blocks.merged(net, state, increment)._replace(notes=notes)
    return state if reset is None else blocks.reset_factors(net, state, reset)


def _increment(net: Net, state: State, total: Total, rank: int | None) -> tuple[Params, dict[str, float]]:
    if not total.stack:
        return blocks.current_factors(net, state), {}
    mean = blocks.mean_product(net, total)
    if rank is None:
        return tree.cast_like(mean, state.shared), {}
    increment, error = blocks.truncated(net, mean, rank)
    return tree.cast_like(increment, state.shared), {"truncation_error": error}


def _values(
    tau: Tau, reset: Reset, exact: bool, rank: int | None, net: Net, round: int, cohort: Sequence[Profile], own: Profile
) -> Values:
    fresh = round == 1 or (reset == "fresh" and is_merge_round(tau, round - 1))
    increment = 0
    if is_merge_round(tau, round):
        increment = sum(_increment_values(site, len(cohort) if exact else 1, rank) for site in net.sites)
    return blocks.low_rank_values(net, factors_down=not fresh, increment=increment)


def _increment_values(site: lowrank.Site, clients: int, rank: int | None) -> int:
    full = site.rank * clients
    return site.values(full if rank is None else min(rank, full, site.o, site.i))
