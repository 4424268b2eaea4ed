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

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch

from fedloru import lowrank, tree
from fedloru.lowrank.algebra import Init
from fedloru.method import Down, Method, State, Total, Up, Values
from fedloru.methods.fedavg import average, reduce
from fedloru.methods.fedlora import fedlora, live_factors
from fedloru.methods.fedlora import start as attach
from fedloru.methods.fedlora import values as lora_values
from fedloru.methods.settings import expect, one_of, refuse
from fedloru.net import Net
from fedloru.tree import Params

Tau = float | Sequence[int]


def fedloru(
    *,
    tau: Tau = 10,
    reset: Literal["fresh", "keep"] = "fresh",
    base: Literal["model", "zero"] = "model",
    init: Init = "a",
    accumulate: Literal["factors", "exact"] = "factors",
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
    refuse(
        "fedloru",
        *_tau_problems(tau),
        *_rank_problems(accumulate, accumulate_rank),
        one_of("reset", reset, ("fresh", "keep")),
        one_of("base", base, ("model", "zero")),
        one_of("init", init, get_args(Init)),
        one_of("accumulate", accumulate, ("factors", "exact")),
    )
    due = partial(is_merge_round, tau)
    exact = accumulate == "exact"
    return fedlora(init=init)._replace(
        name="fedloru",
        config={
            "tau": tau if isinstance(tau, int | float) else list(tau),
            "reset": reset,
            "base": base,
            "init": init,
            "accumulate": accumulate,
            "accumulate_rank": accumulate_rank,
        },
        init=lambda net, seed: _start(net, seed, init, base),
        reduce=(lambda *args: _reduce(due, *args)) if exact else reduce,
        server=lambda net, state, total: _server(due, reset, init, accumulate_rank, net, state, total),
        values=lambda net, round, cohort, profile: _values(due, reset, exact, accumulate_rank, net, round, len(cohort)),
        stacks=exact,
    )


def is_merge_round(tau: Tau, round: int) -> bool:
    """Say whether the server accumulates at the end of ``round``, counted from 1."""
    if isinstance(tau, int | float):
        return math.isfinite(tau) and round % int(tau) == 0
    return round in tau


def _tau_problems(tau: Tau) -> Iterator[str | None]:
    cycles: list[Any] = [tau] if isinstance(tau, int | float) else list(tau)
    whole = all(isinstance(c, int | float) and c >= 1 and (c == math.inf or c == int(c)) for c in cycles)
    yield expect(bool(cycles) and whole, "tau", tau, "a whole number of rounds from 1, a list of them, or inf")


def _rank_problems(accumulate: str, rank: int | None) -> Iterator[str | None]:
    if rank is None:
        return
    yield expect(rank >= 1, "accumulate_rank", rank, "1 or more")
    if accumulate != "exact":
        yield "accumulate_rank truncates an exact increment: set accumulate = 'exact', or leave it out"


def _start(net: Net, seed: int, init: Init, base: str) -> State:
    state = attach(net, seed, init)
    if base == "model":
        return state
    zeros = {site.weight: torch.zeros_like(state.base[site.weight]) for site in net.sites}
    return state._replace(base=state.base | zeros)


def _reduce(
    due: partial[bool], net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]
) -> Total:
    total = reduce(net, state, down, ups, weights)
    if not due(state.round + 1):
        return total
    return total._replace(stack=lowrank.stack(net.sites, [(w, up.shared) for w, up in zip(weights, ups, strict=True)]))


def _server(
    due: partial[bool], reset: str, init: Init, rank: int | None, net: Net, state: State, total: Total
) -> State:
    state = average(net, state, total)
    if not due(state.round):
        return state
    increment, notes = _increment(net, state, total, rank)
    version = state.version + 1
    renewed = lowrank.fresh(net.sites, state.seed, version, state.shared, init) if reset == "fresh" else {}
    return state._replace(
        version=version,
        base=lowrank.merge(net.sites, state.base, increment),
        shared=state.shared | renewed,
        increment=increment,
        notes=notes,
    )


def _increment(net: Net, state: State, total: Total, rank: int | None) -> tuple[Params, dict[str, float]]:
    if not total.stack:
        return live_factors(net, state), {}
    mean = lowrank.stack(net.sites, [(1 / total.weight, total.stack)])
    if rank is None:
        return tree.cast_like(mean, state.shared), {}
    cut = {site: lowrank.truncate(site, mean, rank) for site in net.sites}
    increment = {key: value for factors, _ in cut.values() for key, value in factors.items()}
    return tree.cast_like(increment, state.shared), {"truncation_error": max(error for _, error in cut.values())}


def _values(due: partial[bool], reset: str, exact: bool, rank: int | None, net: Net, round: int, cohort: int) -> Values:
    is_fresh = round == 1 or (reset == "fresh" and due(round - 1))
    increment = 0
    if due(round):
        for site in net.sites:
            full = site.rank * (cohort if exact else 1)
            increment += site.values(full if rank is None else min(rank, full, site.o, site.i))
    return lora_values(net, factors_down=not is_fresh, increment=increment)
