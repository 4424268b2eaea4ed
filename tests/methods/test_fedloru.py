"""FedAvg, FedLoRA and FedLoRU, round by round, against dense formulas."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from fedloru import lowrank, methods, tree
from fedloru import net as nets
from fedloru.errors import ConfigError, ModelError
from fedloru.method import Profile, State
from fedloru.methods.accumulate import is_merge_round
from tests.methods.cohort import SHARES, answers, close, keeps_types, mean, play, small, step


def product(site: lowrank.Site, factors: tree.Params) -> torch.Tensor:
    return site.scale * (factors[site.b].flatten(1) @ factors[site.a].flatten(1)).view(site.shape)


@pytest.mark.parametrize("tau", [1, 2, 3, [2, 3, 7], (5,), math.inf])
@pytest.mark.parametrize("reset", ["fresh", "keep"])
@pytest.mark.parametrize(("base", "init"), [("model", "a"), ("zero", "both")])
def test_fedloru_is_its_equations(tau: Any, reset: str, base: str, init: str) -> None:
    net = small()
    method = methods.fedloru(tau=tau, reset=reset, base=base, init=init)
    merges = {round for round in range(1, 8) if (round in tau if isinstance(tau, list | tuple) else not round % tau)}
    weights = {s.weight: net.params[s.weight] * (base == "model") for s in net.sites}
    factors = lowrank.fresh(net.sites, 3, 0, net.params, init)
    version = 0
    for before, ups, after in play(net, method, 7):
        assert close(tree.select(before.base, weights), weights)
        assert close(tree.select(before.shared, net.factors), factors)
        averaged = mean(ups)
        factors, increment = tree.select(averaged, net.factors), {}
        if after.round in merges:
            weights = {site.weight: weights[site.weight] + product(site, factors) for site in net.sites}
            version, increment = version + 1, factors
            if reset == "fresh":
                factors = lowrank.fresh(net.sites, 3, version, net.params, init)
        assert (after.round, after.version) == (before.round + 1, version)
        assert close(after.increment, increment)
        assert close(tree.select(after.base, weights), weights)
        assert close(after.shared, averaged | factors)
        assert after.notes == {}
        others = after.base.keys() - weights.keys()
        assert tree.equal(tree.select(after.base, others), tree.select(before.base, others))
    assert version == len(merges)


def test_fedlora_is_fedloru_that_never_merges() -> None:
    net = small()
    pairs = zip(play(net, methods.fedloru(tau=math.inf), 4), play(net, methods.fedlora(), 4), strict=True)
    for (_, _, mine), (_, _, theirs) in pairs:
        assert mine.version == theirs.version == 0 and mine.increment == theirs.increment == {}
        assert tree.equal(mine.shared, theirs.shared) and tree.equal(mine.base, theirs.base)
    first, second = methods.fedloru(tau=math.inf, init="both"), methods.fedlora(init="both")
    assert tree.equal(first.init(net, 1).shared, second.init(net, 1).shared)


def test_merge_rounds_count_from_1() -> None:
    assert [t for t in range(1, 13) if is_merge_round(4, t)] == [4, 8, 12]
    assert [t for t in range(1, 13) if is_merge_round(4.0, t)] == [4, 8, 12]
    assert [t for t in range(1, 13) if is_merge_round([1, 5, 40], t)] == [1, 5]
    assert not any(is_merge_round(math.inf, t) for t in range(1, 13))


def test_exact_merges_the_mean_of_products() -> None:
    net = small()
    for before, ups, after in play(net, methods.fedloru(tau=2, accumulate="exact"), 4):
        if after.version == before.version:
            assert after.increment == {} and tree.equal(after.base, before.base)
            continue
        for site in net.sites:
            exact = sum(p * product(site, up.shared) for p, up in zip(SHARES, ups, strict=True))
            assert torch.allclose(after.base[site.weight] - before.base[site.weight], exact, rtol=0, atol=1e-10)
            assert after.increment[site.a].shape[0] == len(ups) * site.rank
            assert torch.allclose(product(site, after.increment), exact, rtol=0, atol=1e-10)
        assert tree.equal(
            tree.select(after.shared, net.factors), lowrank.fresh(net.sites, 3, after.version, net.params)
        )


@pytest.mark.parametrize("rank", [1, 3, 50])
def test_truncated_merges_are_the_nearest_of_their_rank(rank: int) -> None:
    net = small()
    method = methods.fedloru(tau=1, accumulate="exact", accumulate_rank=rank)
    before, ups, after = next(play(net, method, 1))
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
def test_increments_of_narrow_models_are_float32(accumulate: str) -> None:
    """Neither the weights of 3, 1 and 7 examples nor the mean of the factors may be rounded to bfloat16."""
    net = small(dtype=torch.bfloat16)
    _, ups, after = next(play(net, methods.fedloru(tau=1, accumulate=accumulate), 1))
    for site in net.sites:
        if accumulate == "exact":
            exact = torch.cat([p * up.shared[site.b].double() for p, up in zip(SHARES, ups, strict=True)], 1)
        else:
            exact = sum(p * up.shared[site.b].double() for p, up in zip(SHARES, ups, strict=True))
        got = after.increment[site.b]
        assert got.dtype == torch.float32
        assert bool(((got.double() - exact).abs() <= 2.0**-22).all())
    assert keeps_types(net, after.base | after.shared)


def test_fedavg_trains_whole_weights_and_leaves_factors_alone() -> None:
    net = small()
    state = methods.fedavg().init(net, 3)
    assert state.base.keys() == net.factors
    assert state.shared.keys() == (net.params.keys() - net.factors) | net.statistics
    after = step(net, methods.fedavg(), state, answers(state))
    assert close(after.shared, mean(answers(state))) and after.base is state.base
    assert (after.round, after.version) == (1, 0)


def test_keys_are_in_alphabetical_order_as_on_the_wire() -> None:
    for method in (methods.fedavg(), methods.fedlora(), methods.fedloru(tau=1)):
        net = small()
        for _, _, after in play(net, method, 2):
            assert list(after.shared) == sorted(after.shared) and list(after.base) == sorted(after.base)


def test_low_rank_methods_need_sites() -> None:
    net = nets.make(nn.Linear(3, 2))
    for method in (methods.fedlora(), methods.fedloru()):
        with pytest.raises(ModelError, match="no low-rank site"):
            method.init(net, 0)


def test_inputs_of_the_server_stay_as_they_were() -> None:
    net = small()
    for settings in ({}, {"reset": "keep"}, {"accumulate": "exact"}, {"accumulate": "exact", "accumulate_rank": 1}):
        method = methods.fedloru(tau=1, **settings)
        state = method.init(net, 3)
        ups = answers(state)
        digests = [tree.digest(each) for each in (*state[3:7], *(up.shared for up in ups))]
        step(net, method, state, ups)
        assert [tree.digest(each) for each in (*state[3:7], *(up.shared for up in ups))] == digests


# The net by hand. Sites: the convolution is a matrix 4 × 18 and the linear layer 5 × 16, rank 2:
# factors 2·(4 + 18) + 2·(5 + 16) = 86. θ: biases 4 + 5, BatchNorm 4 + 4, head 3·5 = 15: 32. Statistics: 4 + 4.
# All weights: 4·18 + 5·16 + 32 = 184.
FACTORS, DENSE, STATISTICS, WHOLE = 86, 32, 8, 184
REST = {"dense": DENSE, "statistics": STATISTICS}
THREE: list[Profile] = [(), (), ()]


def test_values_by_hand() -> None:
    net = small()
    whole = {"dense": WHOLE, "statistics": STATISTICS}
    assert methods.fedavg().values(net, 4, THREE, ()) == (whole, whole, 0)
    with_factors, without = REST | {"factors": FACTORS}, REST | {"factors": 0}
    assert methods.fedlora().values(net, 1, THREE, ()) == (without, with_factors, 0)
    assert methods.fedlora().values(net, 2, THREE, ()) == (with_factors, with_factors, 0)
    loru = methods.fedloru(tau=2)
    downs = [loru.values(net, round, THREE, ()).down["factors"] for round in range(1, 6)]
    assert downs == [0, FACTORS, 0, FACTORS, 0]  # fresh factors are drawn, and cost nothing
    assert [loru.values(net, round, THREE, ()).increment for round in range(1, 5)] == [0, FACTORS, 0, FACTORS]
    keep = methods.fedloru(tau=2, reset="keep")
    assert [keep.values(net, round, THREE, ()).down["factors"] for round in range(1, 4)] == [0, FACTORS, FACTORS]


def test_values_of_exact_increments_by_hand() -> None:
    net = small()
    exact = methods.fedloru(tau=2, accumulate="exact")
    assert exact.values(net, 2, THREE, ()).increment == 3 * FACTORS and exact.values(net, 1, THREE, ()).increment == 0
    cut = methods.fedloru(tau=2, accumulate="exact", accumulate_rank=5)
    assert cut.values(net, 2, THREE, ()).increment == 4 * (4 + 18) + 5 * (5 + 16)  # 4 × 18 has no rank 5
    assert cut.values(net, 2, [()], ()).increment == FACTORS  # one client has rank 2, and no more


@pytest.mark.parametrize("settings", [{}, {"accumulate": "exact"}, {"accumulate": "exact", "accumulate_rank": 3}])
def test_values_are_what_states_hold(settings: dict[str, Any]) -> None:
    net, method = small(), methods.fedloru(tau=2, **settings)
    for before, ups, after in play(net, method, 3):
        counted = method.values(net, after.round, [()] * len(ups), ())
        assert sum(counted.up.values()) == tree.size(ups[0].shared)
        assert counted.increment == tree.size(after.increment)
        assert counted.down["dense"] + counted.down["statistics"] + FACTORS == tree.size(before.shared)


BAD: dict[str, Any] = {
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


@pytest.mark.parametrize("message", BAD)
def test_bad_settings_are_refused(message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        methods.fedloru(**BAD[message])


def test_bad_settings_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        methods.fedloru(tau=0, reset="no", base="one", init="c", accumulate="all", accumulate_rank=-1)
    assert len(refused.value.problems) == 7
    with pytest.raises(ConfigError, match="init is 'c'"):
        methods.fedlora(init="c")


def test_every_pair_of_switches_is_a_method() -> None:
    for reset, base, init, accumulate in itertools.product(
        ("fresh", "keep"), ("model", "zero"), ("a", "both"), ("factors", "exact")
    ):
        method = methods.fedloru(tau=1, reset=reset, base=base, init=init, accumulate=accumulate)
        _, _, after = next(play(small(), method, 1))
        assert isinstance(after, State) and after.version == 1 and method.stacks is (accumulate == "exact")
