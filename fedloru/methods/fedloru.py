"""FedLoRU: low-rank updates, accumulated into the model every τ rounds.

Park and Klabjan, "Communication-Efficient Federated Low-Rank Update Algorithm and its Connection to Implicit
Regularization", arXiv 2409.12371::

    clients   minimise f_k(W + s·BA; θ) over (A, B, θ)
    server    A ← Σ p_k A_k,  B ← Σ p_k B_k,  θ ← Σ p_k θ_k
              every τ rounds:  W ← W + s·BA,  version += 1,  fresh A, B

After T rounds the model is W₀ + s·Σ_j B⁽ʲ⁾A⁽ʲ⁾: low rank in every message, up to (T/τ)·r in total. Clients apply
the same increments to their own copy of W, so a merge round costs a client what any other round does.

Where the published script differs from the paper, the paper is the default and the script a switch: it never
draws fresh factors (``reset="keep"``: the effective weight then jumps from W + sBA to W + 2sBA), starts W at 0
(``base="zero"``), draws B too (``init="both"``), and takes a list of rounds for ``tau``. ``accumulate="exact"`` is
ours: at a merge round the server holds every client's factors, and can merge s·Σ p_k B_k A_k at no extra uplink.

At a reset, what is remembered about the old factors means nothing for the new ones. Clients start their optimizers
anew every round, so none of them is affected; ``server_opt`` drops its moments of the factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, TypedDict, get_args

import torch

from fedloru import lowrank, tree
from fedloru.lowrank.algebra import Init
from fedloru.method import Down, Method, Profile, State, Total, Up, Values
from fedloru.methods.accumulate import Tau, check_cycle, is_merge_round, mean_product, merged, stacked, truncated
from fedloru.methods.fedavg import average, reduce
from fedloru.methods.fedlora import fedlora, live_factors, start, values
from fedloru.methods.settings import expect, one_of, refuse
from fedloru.net import Net
from fedloru.tree import Params

Reset = Literal["fresh", "keep"]
Base = Literal["model", "zero"]
Accumulate = Literal["factors", "exact"]


class Switches(TypedDict, total=False):
    """The settings of FedLoRU, which its variants pass on."""

    tau: Tau
    reset: Reset
    base: Base
    init: Init
    accumulate: Accumulate
    accumulate_rank: int | None


def fedloru(
    *,
    tau: Tau = 10,
    reset: Reset = "fresh",
    base: Base = "model",
    init: Init = "a",
    accumulate: Accumulate = "factors",
    accumulate_rank: int | None = None,
) -> Method:
    """Return FedLoRU. Values each way: r(o + i) a site, and θ; fresh factors are drawn, and cost nothing.

    Args:
        tau: the accumulation cycle in rounds; a list names the rounds themselves; ``inf`` makes it FedLoRA.
        reset: ``"fresh"`` draws new factors after a merge, ``"keep"`` goes on with the old ones.
        base: ``"zero"`` starts the adapted weights at 0 instead of the model's own.
        init: ``"a"`` draws A and sets B = 0, ``"both"`` draws both.
        accumulate: ``"factors"`` merges s·B̄Ā, ``"exact"`` merges s·Σ p_k B_k A_k, of rank P·r at most.
        accumulate_rank: truncates the exact increment to this rank; the error is recorded with the round.

    Raises:
        ConfigError: a cycle below one round, a truncation without ``accumulate="exact"``, or no such choice.
    """
    exact, rank = accumulate == "exact", accumulate_rank
    inexact = "accumulate_rank truncates an exact increment: set accumulate = 'exact', or leave it out"
    refuse(
        "fedloru",
        check_cycle("tau", tau),
        expect(rank is None or rank >= 1, "accumulate_rank", rank, "1 or more"),
        None if exact or rank is None else inexact,
        one_of("reset", reset, get_args(Reset)),
        one_of("base", base, get_args(Base)),
        one_of("init", init, get_args(Init)),
        one_of("accumulate", accumulate, get_args(Accumulate)),
    )
    cycle = tau if isinstance(tau, int | float) else list(tau)
    switches = Switches(tau=cycle, reset=reset, base=base, init=init, accumulate=accumulate, accumulate_rank=rank)
    return fedlora(init=init)._replace(
        name="fedloru",
        config=dict(switches),
        init=partial(_start, switches),
        reduce=partial(_reduce, switches),
        server=partial(_server, switches),
        values=partial(_values, switches),
        stacks=exact,
    )


def _start(switches: Switches, net: Net, seed: int) -> State:
    state = start(net, seed, switches["init"])
    if switches["base"] == "model":
        return state
    zeros = {site.weight: torch.zeros_like(state.base[site.weight]) for site in net.sites}
    return state._replace(base=state.base | zeros)


def _reduce(
    switches: Switches, net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]
) -> Total:
    exact = switches["accumulate"] == "exact" and is_merge_round(switches["tau"], state.round + 1)
    return (stacked if exact else reduce)(net, state, down, ups, weights)


def _server(switches: Switches, net: Net, state: State, total: Total) -> State:
    state = average(net, state, total)
    if not is_merge_round(switches["tau"], state.round):
        return state
    increment, notes = _increment(net, state, total, switches["accumulate_rank"])
    state = merged(net, state, increment)._replace(notes=notes)
    if switches["reset"] == "keep":
        return state
    renewed = lowrank.fresh(net.sites, state.seed, state.version, state.shared, switches["init"])
    return state._replace(shared=state.shared | renewed)


def _increment(net: Net, state: State, total: Total, rank: int | None) -> tuple[Params, dict[str, float]]:
    if not total.stack:
        return live_factors(net, state), {}
    mean = mean_product(net, total)
    if rank is None:
        return tree.cast_like(mean, state.shared), {}
    increment, error = truncated(net, mean, rank)
    return tree.cast_like(increment, state.shared), {"truncation_error": error}


def _values(switches: Switches, net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
    fresh = round == 1 or (switches["reset"] == "fresh" and is_merge_round(switches["tau"], round - 1))
    increment = 0
    if is_merge_round(switches["tau"], round):
        clients = len(cohort) if switches["accumulate"] == "exact" else 1
        increment = sum(_increment_values(site, clients, switches["accumulate_rank"]) for site in net.sites)
    return values(net, factors_down=not fresh, increment=increment)


def _increment_values(site: lowrank.Site, clients: int, rank: int | None) -> int:
    full = site.rank * clients
    return site.values(full if rank is None else min(rank, full, site.o, site.i))
