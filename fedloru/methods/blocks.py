"""The building blocks of methods: pure functions from which a ``Method`` is composed.

FedAvg consists of ``init_dense``, ``down``, ``begin``, ``up``, ``reduce``, ``average`` and ``dense_values``. Low-rank
methods start with ``init_low_rank`` and count their values with ``low_rank_values``. Accumulating methods call
``merged`` in the rounds for which ``is_merge_round`` is true: with ``current_factors`` or, for the exact mean of the
clients' products ``Σ p_k B_k A_k = [p_1 B_1 … p_K B_K] [A_1; …; A_K]``, with the factors that ``stacked`` collects.
Building blocks for clients of different ranks are in ``fedloru.methods.ranks``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import PlainValidator

from fedloru import lowrank, tree
from fedloru.errors import ConfigError, ModelError
from fedloru.lowrank.algebra import Init
from fedloru.method import Down, Fresh, Profile, State, Total, Up, Values
from fedloru.net import Net
from fedloru.settings import Expected
from fedloru.settings.types import FromSize, RunSize
from fedloru.tree import Params


def _check_cycle(tau: Any) -> Any:
    if tau == math.inf:
        return tau
    rounds = list(tau) if isinstance(tau, Sequence) and not isinstance(tau, str) else [tau]
    if not rounds or not all(_is_count(round) for round in rounds):
        raise ValueError("not an accumulation cycle")
    return tau


def _is_count(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 1 and value == int(value)


Tau = Annotated[
    float | Sequence[int],
    PlainValidator(_check_cycle),
    Expected("an integer >= 1, a list of integers >= 1, or inf"),
]
"""The accumulation cycle: the number of rounds between merges (``inf``: never), or a list of merge rounds."""

UNPLANNED = 10
"""The accumulation cycle of a method that is used outside of a run, so that the number of rounds is not known."""

CYCLES = 5
"""The number of cycles that a short run of the alternating recipe has by default."""


def default_cycle(settings: Mapping[str, Any], size: RunSize) -> int:
    """Return the accumulation cycle of a run: a quarter of its rounds, or of FedLoRU, what its recipe needs.

    The alternating recipe merges often, but a client that is in a cohort every 1/share rounds has to catch up with
    1/(share·τ) increments. With τ = 1/share, it is one on average. A short run needs a shorter cycle, so that clients
    train in enough subspaces; the first one is random.
    """
    if settings.get("recipe") == "alternating":
        return max(1, min(round(1 / size.share), math.ceil(size.rounds / CYCLES)))
    return max(1, size.rounds // 4)


OpenTau = Annotated[Tau | None, FromSize(default_cycle)]
"""An accumulation cycle that is chosen by ``default_cycle`` if it is not set."""


def reject(source: str, *problems: str | None) -> None:
    """Raise one ``ConfigError`` for all ``problems`` that are not None; ``source`` is the name of the method.

    Raises:
        ConfigError: at least one problem is not None.
    """
    found = [problem for problem in problems if problem]
    if found:
        raise ConfigError(found, source)


def dense_keys(net: Net) -> frozenset[str]:
    """Return the keys of the parameters that a method without factors trains."""
    return (net.trainable | {site.weight for site in net.sites}) - net.factors


def site_weights(net: Net) -> frozenset[str]:
    """Return the keys of the adapted weights.

    Raises:
        ModelError: the model has no site.
    """
    if not net.sites:
        raise ModelError("the model has no low-rank site: attach factors first, with fedloru.attach(model, targets=…)")
    return frozenset(site.weight for site in net.sites)


def current_factors(net: Net, state: State) -> Params:
    """Return the factors that the server shares."""
    return {key: state.shared[key] for site in net.sites for key in site.keys}


def init_shared(net: Net, seed: int, keys: Iterable[str]) -> State:
    """Return the initial state, in which the parameters ``keys`` and the statistics are shared; the rest is base.

    Keys are in alphabetical order, as in decoded messages and checkpoints, so that sums over keys always have the same
    order.
    """
    trained = set(keys)
    shared = tree.select(net.params, trained) | tree.select(net.buffers, net.statistics)
    base = tree.omit(net.params, trained)
    return State(seed, 0, 0, dict(sorted(base.items())), dict(sorted(shared.items())), {}, {})


def init_dense(net: Net, seed: int) -> State:
    """Share all weights and no factors; an ``init`` for ``Method``."""
    return init_shared(net, seed, dense_keys(net))


def init_low_rank(net: Net, seed: int, init: Init = "a") -> State:
    """Share factors drawn from (seed, "fresh", 0) and the other trained parameters θ; the rest is base.

    Raises:
        ModelError: the model has no site.
    """
    site_weights(net)
    state = init_shared(net, seed, net.trainable | net.factors)
    return reset_factors(net, state, init)


def reset_factors(net: Net, state: State, init: Init = "a") -> State:
    """Return ``state`` with fresh factors that are drawn from its seed and version."""
    fresh = lowrank.init_factors(net.sites, state.seed, state.version, state.shared, init)
    return state._replace(shared=state.shared | fresh)


def down(net: Net, state: State, profile: Profile) -> Down:
    """Send all shared tensors; a ``down`` for ``Method``."""
    return Down(state.shared, {}, state.seed, state.round + 1, state.version)


def down_fresh(init: Init, *, after_merges: bool = False) -> Callable[[Net, State, Profile], Down]:
    """Return a ``down`` that marks the factors as fresh in round 1 and, with ``after_merges``, after every merge."""

    def send(net: Net, state: State, profile: Profile) -> Down:
        drawn = not state.round or (after_merges and bool(state.increment))
        fresh: Fresh = init if drawn else ""
        return down(net, state, profile)._replace(fresh=fresh)

    return send


def begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
    """Train the tensors that were received; a ``begin`` for ``Method``."""
    return down.shared


def up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
    """Send the trained tensors and keep the client state; an ``up`` for ``Method``."""
    return Up(train), client_state


def reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    """Return the weighted sum of the clients' messages, in client order; a ``reduce`` for ``Method``."""
    shared = tree.weighted_sum((up.shared for up in ups), weights)
    aux = tree.weighted_sum((up.aux for up in ups), weights)
    return Total(sum(weights), Up(shared, aux), {})


def stacked(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    """Return the weighted sum of the clients' messages and their stacked factors; a ``reduce`` for ``Method``."""
    stack = lowrank.stack(net.sites, [(w, up.shared) for w, up in zip(weights, ups, strict=True)])
    return reduce(net, state, down, ups, weights)._replace(stack=stack)


def average(net: Net, state: State, total: Total) -> State:
    """Replace the shared tensors by their weighted mean; a ``server`` for ``Method``."""
    mean = tree.scale(total.sum.shared, 1 / total.weight)
    shared = tree.cast_like(mean, state.shared)
    return state._replace(round=state.round + 1, shared=shared, increment={}, notes={})


def merged(net: Net, state: State, increment: Params) -> State:
    """Return the state after W ← W + s·BA, with ``version`` + 1; the current factors do not change."""
    base = lowrank.merge(net.sites, state.base, increment)
    return state._replace(version=state.version + 1, base=base, increment=increment)


def mean_product(net: Net, total: Total) -> Params:
    """Return factors, in float32 or wider, whose product is the mean of the clients' products."""
    return lowrank.stack(net.sites, [(1 / total.weight, total.stack)])


def truncated(net: Net, factors: Params, rank: int) -> tuple[Params, float]:
    """Return the best factors of ``rank`` for all sites, and the largest relative error ‖BA − B'A'‖_F / ‖BA‖_F."""
    cut = [lowrank.truncate(site, factors, rank) for site in net.sites]
    return {key: value for best, _ in cut for key, value in best.items()}, max(error for _, error in cut)


def count_dense(net: Net, keys: Iterable[str]) -> dict[str, int]:
    """Count the values of parameters that are sent without factors, and of the statistics that are sent with them."""
    return {
        "dense": sum(net.params[key].numel() for key in keys),
        "statistics": sum(net.buffers[key].numel() for key in net.statistics),
    }


def dense_values(net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
    """Count all parameters and statistics in both directions; a ``values`` for ``Method``."""
    each = count_dense(net, dense_keys(net))
    return Values(each, each)


def low_rank_values(net: Net, *, factors_down: bool, increment: int = 0) -> Values:
    """Count r(o + i) for each site, and θ; without ``factors_down``, factors are fresh and the server sends none."""
    rest = count_dense(net, net.trainable - net.factors)
    factors = {"factors": sum(site.values() for site in net.sites)}
    return Values(rest | (factors if factors_down else {"factors": 0}), rest | factors, increment)
