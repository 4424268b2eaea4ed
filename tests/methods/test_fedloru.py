"""FedAvg, FedLoRA and FedLoRU, round by round, against dense formulas."""

from __future__ import annotations

import itertools
import math
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

from fedloru import lowrank, methods, tree
from fedloru import net as nets
from fedloru.errors import ConfigError, ModelError
from fedloru.method import Profile, State, is_merge_round
from fedloru.methods.paper import Settings, paper
from tests.methods.cohort import SHARES, close, keeps_dtypes, mean, replies, run_rounds, small_net, step


def product(site: lowrank.Site, factors: tree.Params) -> torch.Tensor:
    return site.scale * (factors[site.b].flatten(1) @ factors[site.a].flatten(1)).view(site.shape)


@pytest.mark.parametrize("tau", [1, 2, 3, [2, 3, 7], (5,), math.inf])
@pytest.mark.parametrize("reset", ["fresh", "keep"])
@pytest.mark.parametrize(("base", "init"), [("model", "a"), ("zero", "both")])
def test_rounds_match_the_equations(tau: Any, reset: str, base: str, init: str) -> None:
    net = small_net()
    method = methods.fedloru(recipe="paper", tau=tau, reset=reset, base=base, init=init)
    merges = {round for round in range(1, 8) if (round in tau if isinstance(tau, list | tuple) else not round % tau)}
    weights = {s.weight: net.params[s.weight] * (base == "model") for s in net.sites}
    factors = lowrank.init_factors(net.sites, 3, 0, net.params, init)
    version = 0
    for before, ups, after in run_rounds(net, method, 7):
        assert close(tree.select(before.base, weights), weights)
        assert close(tree.select(before.shared, net.factors), factors)
        averaged = mean(ups)
        factors, increment = tree.select(averaged, net.factors), {}
        if after.round in merges:
            weights = {site.weight: weights[site.weight] + product(site, factors) for site in net.sites}
            version, increment = version + 1, factors
            if reset == "fresh":
                factors = lowrank.init_factors(net.sites, 3, version, net.params, init)
        assert (after.round, after.version) == (before.round + 1, version)
        assert close(after.increment, increment)
        assert close(tree.select(after.base, weights), weights)
        assert close(after.shared, averaged | factors)
        assert after.notes == {}
        others = after.base.keys() - weights.keys()
        assert tree.equal(tree.select(after.base, others), tree.select(before.base, others))
    assert version == len(merges)


def test_fedloru_without_merges_is_fedlora() -> None:
    net = small_net()
    pairs = zip(
        run_rounds(net, methods.fedloru(recipe="paper", tau=math.inf), 4),
        run_rounds(net, methods.fedlora(), 4),
        strict=True,
    )
    for (_, _, fedloru_state), (_, _, fedlora_state) in pairs:
        assert fedloru_state.version == fedlora_state.version == 0
        assert fedloru_state.increment == fedlora_state.increment == {}
        assert tree.equal(fedloru_state.shared, fedlora_state.shared)
        assert tree.equal(fedloru_state.base, fedlora_state.base)
    first, second = methods.fedloru(recipe="paper", tau=math.inf, init="both"), methods.fedlora(init="both")
    assert tree.equal(first.init(net, 1).shared, second.init(net, 1).shared)


def test_merge_rounds_count_from_1() -> None:
    assert [t for t in range(1, 13) if is_merge_round(4, t)] == [4, 8, 12]
    assert [t for t in range(1, 13) if is_merge_round(4.0, t)] == [4, 8, 12]
    assert [t for t in range(1, 13) if is_merge_round([1, 5, 40], t)] == [1, 5]
    assert not any(is_merge_round(math.inf, t) for t in range(1, 13))


def test_exact_increment_is_the_mean_of_products() -> None:
    net = small_net()
    for before, ups, after in run_rounds(net, methods.fedloru(recipe="paper", tau=2, accumulate="exact"), 4):
        if after.version == before.version:
            assert after.increment == {} and tree.equal(after.base, before.base)
            continue
        for site in net.sites:
            exact = sum(p * product(site, up.shared) for p, up in zip(SHARES, ups, strict=True))
            assert torch.allclose(after.base[site.weight] - before.base[site.weight], exact, rtol=0, atol=1e-10)
            assert after.increment[site.a].shape[0] == len(ups) * site.rank
            assert torch.allclose(product(site, after.increment), exact, rtol=0, atol=1e-10)
        assert tree.equal(
            tree.select(after.shared, net.factors), lowrank.init_factors(net.sites, 3, after.version, net.params)
        )


@pytest.mark.parametrize("rank", [1, 3, 50])
def test_truncated_increment_is_the_best_approximation_of_its_rank(rank: int) -> None:
    net = small_net()
    method = methods.fedloru(recipe="paper", tau=1, accumulate="exact", accumulate_rank=rank)
    before, ups, after = next(run_rounds(net, method, 1))
    errors = []
    for site in net.sites:
        exact = sum(p * product(site, up.shared) for p, up in zip(SHARES, ups, strict=True)).flatten(1)
        u, sigma, vt = torch.linalg.svd(exact, full_matrices=False)
        nearest = (u[:, :rank] * sigma[:rank]) @ vt[:rank]
        errors.append(float(sigma[rank:].norm() / sigma.norm()))
        change = (after.base[site.weight] - before.base[site.weight]).flatten(1)
        assert torch.allclose(change, nearest, rtol=0, atol=1e-9)
        assert after.increment[site.a].shape[0] == min(rank, 3 * site.rank, site.o, site.i)
    assert after.notes == {"truncation_error": pytest.approx(max(errors), abs=1e-7)}


@pytest.mark.parametrize("accumulate", ["factors", "exact"])
def test_increments_of_bfloat16_models_are_float32(accumulate: str) -> None:
    """Neither the shares of the clients nor the averaged factors are rounded to bfloat16."""
    net = small_net(dtype=torch.bfloat16)
    _, ups, after = next(run_rounds(net, methods.fedloru(recipe="paper", tau=1, accumulate=accumulate), 1))
    for site in net.sites:
        if accumulate == "exact":
            exact = torch.cat([p * up.shared[site.b].double() for p, up in zip(SHARES, ups, strict=True)], 1)
        else:
            exact = sum(p * up.shared[site.b].double() for p, up in zip(SHARES, ups, strict=True))
        actual = after.increment[site.b]
        assert actual.dtype == torch.float32
        assert bool(((actual.double() - exact).abs() <= 2.0**-22).all())
    assert keeps_dtypes(net, after.base | after.shared)


def test_fedavg_averages_weights_and_ignores_factors() -> None:
    net = small_net()
    state = methods.fedavg().init(net, 3)
    assert state.base.keys() == net.factors
    assert state.shared.keys() == (net.params.keys() - net.factors) | net.statistics
    after = step(net, methods.fedavg(), state, replies(state))
    assert close(after.shared, mean(replies(state))) and after.base is state.base
    assert (after.round, after.version) == (1, 0)


def test_keys_are_in_alphabetical_order() -> None:
    for method in (methods.fedavg(), methods.fedlora(), methods.fedloru(recipe="paper", tau=1)):
        net = small_net()
        for _, _, after in run_rounds(net, method, 2):
            assert list(after.shared) == sorted(after.shared) and list(after.base) == sorted(after.base)


def test_low_rank_methods_require_sites() -> None:
    net = nets.make(nn.Linear(3, 2))
    for method in (methods.fedlora(), methods.fedloru(recipe="paper")):
        with pytest.raises(ModelError, match="no low-rank site"):
            method.init(net, 0)


def test_server_does_not_change_its_inputs() -> None:
    net = small_net()
    for settings in ({}, {"reset": "keep"}, {"accumulate": "exact"}, {"accumulate": "exact", "accumulate_rank": 1}):
        method = methods.fedloru(recipe="paper", tau=1, **settings)
        state = method.init(net, 3)
        ups = replies(state)
        digests = [tree.digest(each) for each in (*state[3:7], *(up.shared for up in ups))]
        step(net, method, state, ups)
        assert [tree.digest(each) for each in (*state[3:7], *(up.shared for up in ups))] == digests


# Sizes of small_net(). Sites: the convolution is a matrix 4 × 18 and the linear layer 5 × 16, rank 2:
# factors 2·(4 + 18) + 2·(5 + 16) = 86. θ: biases 4 + 5, BatchNorm 4 + 4, head 3·5 = 15: 32. Statistics: 4 + 4.
# All weights without factors: 4·18 + 5·16 + 32 = 184.
FACTORS, DENSE, STATISTICS, ALL_WEIGHTS = 86, 32, 8, 184
REST = {"dense": DENSE, "statistics": STATISTICS}
COHORT: list[Profile] = [(), (), ()]


def test_values() -> None:
    net = small_net()
    whole = {"dense": ALL_WEIGHTS, "statistics": STATISTICS}
    assert methods.fedavg().values(net, 4, COHORT, ()) == (whole, whole, 0)
    with_factors, without = REST | {"factors": FACTORS}, REST | {"factors": 0}
    assert methods.fedlora().values(net, 1, COHORT, ()) == (without, with_factors, 0)
    assert methods.fedlora().values(net, 2, COHORT, ()) == (with_factors, with_factors, 0)
    fedloru = methods.fedloru(recipe="paper", tau=2)
    downs = [fedloru.values(net, round, COHORT, ()).down["factors"] for round in range(1, 6)]
    assert downs == [0, FACTORS, 0, FACTORS, 0]  # fresh factors are not sent
    assert [fedloru.values(net, round, COHORT, ()).increment for round in range(1, 5)] == [0, FACTORS, 0, FACTORS]
    keep = methods.fedloru(recipe="paper", tau=2, reset="keep")
    assert [keep.values(net, round, COHORT, ()).down["factors"] for round in range(1, 4)] == [0, FACTORS, FACTORS]


def test_values_of_exact_increments() -> None:
    net = small_net()
    exact = methods.fedloru(recipe="paper", tau=2, accumulate="exact")
    assert exact.values(net, 1, COHORT, ()).increment == 0
    assert exact.values(net, 2, COHORT, ()).increment == 3 * FACTORS
    truncated = methods.fedloru(recipe="paper", tau=2, accumulate="exact", accumulate_rank=5)
    assert truncated.values(net, 2, COHORT, ()).increment == 4 * (4 + 18) + 5 * (
        5 + 16
    )  # the rank of 4 × 18 is at most 4
    assert truncated.values(net, 2, [()], ()).increment == FACTORS  # the product of one client has rank 2


@pytest.mark.parametrize("settings", [{}, {"accumulate": "exact"}, {"accumulate": "exact", "accumulate_rank": 3}])
def test_values_match_the_sizes_of_the_tensors(settings: dict[str, Any]) -> None:
    net, method = small_net(), methods.fedloru(recipe="paper", tau=2, **settings)
    for before, ups, after in run_rounds(net, method, 3):
        counted = method.values(net, after.round, [()] * len(ups), ())
        assert sum(counted.up.values()) == tree.size(ups[0].shared)
        assert counted.increment == tree.size(after.increment)
        assert counted.down["dense"] + counted.down["statistics"] + FACTORS == tree.size(before.shared)


INVALID: dict[str, Any] = {
    "tau is 0": {"tau": 0},
    "tau is -3": {"tau": -3},
    "tau is 2.5": {"tau": 2.5},
    "tau is nan": {"tau": math.nan},
    "tau is -inf": {"tau": -math.inf},
    r"tau is \[\]": {"tau": []},
    r"tau is \[3, 0\]": {"tau": [3, 0]},
    "tau is 'never'": {"tau": "never"},
    "reset is 'no', expected 'fresh' or 'keep'": {"reset": "no"},
    "base is 'one', expected 'model' or 'zero'": {"base": "one"},
    "init is 'b', expected 'a' or 'both'": {"init": "b"},
    "accumulate is 'all', expected 'factors' or 'exact'": {"accumulate": "all"},
    "accumulate_rank is 0": {"accumulate": "exact", "accumulate_rank": 0},
    "set accumulate = 'exact'": {"accumulate_rank": 2},
}


@pytest.mark.parametrize("message", INVALID)
def test_invalid_settings_raise(message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        methods.fedloru(recipe="paper", **INVALID[message])


def test_all_invalid_settings_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        methods.fedloru(recipe="paper", tau=0, reset="no", base="one", init="c", accumulate="all", accumulate_rank=-1)
    assert len(error.value.problems) == 6
    with pytest.raises(ConfigError, match="set accumulate = 'exact'"):
        methods.fedloru(recipe="paper", accumulate_rank=2)
    with pytest.raises(ConfigError, match="init is 'c'"):
        methods.fedlora(init="c")


def test_all_combinations_of_settings_run() -> None:
    for reset, base, init, accumulate in itertools.product(
        ("fresh", "keep"), ("model", "zero"), ("a", "both"), ("factors", "exact")
    ):
        method = methods.fedloru(recipe="paper", tau=1, reset=reset, base=base, init=init, accumulate=accumulate)
        _, _, after = next(run_rounds(small_net(), method, 1))
        assert isinstance(after, State) and after.version == 1 and method.traits.stacks is (accumulate == "exact")


def test_the_typed_settings_of_variants_are_those_of_fedloru() -> None:
    declared = get_type_hints(paper, include_extras=True)
    declared.pop("return")
    assert get_type_hints(Settings, include_extras=True) == declared
