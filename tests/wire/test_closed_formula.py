from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_toy import small_net, toy

from fedloru import tree
from fedloru.wire import Channel, Ledger, Traffic, cost, cost_by_profile
from fedloru.wire.grid import on_grid

COHORTS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True), min_size=1, max_size=14)


def measured(tau: int, cohorts: list[list[int]], codec: str, first: bool, dtype: torch.dtype) -> list[Traffic]:
    """Return the payload of each round of the toy method, measured by a ``Channel``."""
    net, method = small_net(dtype), toy(tau)
    state = method.init(net, 3)
    ledger = Ledger(net.sites, state, first_download=first, codec=codec)
    channel = Channel(net, method.name, tree.digest(state.base), codec)
    rounds = []
    for round, cohort in enumerate(cohorts, 1):
        before = channel.traffic
        for client in cohort:
            channel.sync(ledger.owed(client, state), state)
            ledger.delivered(client, state.version)
        down = channel.down(method.down(net, state, ()), state, len(cohort))
        replies = [method.up(net, {}, down, {}, client)[0] for client in cohort]
        ups = [channel.up(up, down, k, round, state.version, {}) for k, up in zip(cohort, replies, strict=True)]
        after = method.server(net, state, method.reduce(net, state, down, ups, [1.0] * len(ups)))
        state = on_grid(net.sites, state, after, codec)
        ledger.record(state)
        rounds.append(channel.traffic - before)
    return [Traffic(**{direction: kinds | {"envelope": 0} for direction, kinds in t.table().items()}) for t in rounds]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), COHORTS, st.sampled_from(["exact", "fp32", "bf16", "int8", "int4"]), st.booleans())
def test_the_measured_payload_equals_the_byte_formula(
    tau: int, cohorts: list[list[int]], codec: str, first: bool
) -> None:
    net = small_net()
    assert cost(net, toy(tau), cohorts, codec=codec, first_download=first) == measured(
        tau, cohorts, codec, first, torch.float32
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_widths_follow_the_dtypes_of_the_model(dtype: torch.dtype) -> None:
    """Factors of bfloat16 weights are float32, and the formula counts aux, missing in the first state, like them."""
    cohorts = [[0, 1], [1], [2], [0], [0, 1, 2]]
    formula = cost(small_net(dtype), toy(1), cohorts, codec="fp32")
    for computed, sent in zip(formula, measured(1, cohorts, "fp32", True, dtype), strict=True):
        factor = 2 if dtype == torch.bfloat16 else 1
        for direction, kinds in sent.table().items():
            assert computed.table()[direction] == kinds | {"aux": factor * kinds["aux"]}


def test_the_first_rounds_match_hand_computed_values() -> None:
    net = small_net()
    factors = sum(site.values() for site in net.sites)
    weights = 4 * (net.params["0.weight"].numel() + net.params["3.weight"].numel())
    one, two, three = cost(net, toy(1), [[0], [0], [0, 1]])
    assert (one.down["first_download"], one.down["factors"], one.down["increments"]) == (weights, 0, 0)
    assert (two.down["first_download"], two.down["increments"]) == (0, 4 * factors)
    assert (three.down["first_download"], three.down["increments"]) == (weights, 4 * factors)
    assert one.up["factors"] == 4 * factors and one.up["envelope"] == one.down["envelope"] == 0


def test_profiles_match_hand_computed_values_with_catch_up() -> None:
    """Clients 0 and 2 have the default profile; client 1 is new in round 2 and misses the merge of round 3."""
    net, low = small_net(), (("rank", 1.0),)
    factors = sum(site.values() for site in net.sites)
    weights = 4 * (net.params["0.weight"].numel() + net.params["3.weight"].numel())
    cohorts, profiles = [[0, 2], [0, 1], [0], [1]], [(), low, ()]
    one, two, three, four = cost_by_profile(net, toy(1), cohorts, profiles=profiles)
    assert one.keys() == three.keys() == {()} and two.keys() == {(), low} and four.keys() == {low}
    assert one[()].down["first_download"] == 2 * weights and one[()].up["factors"] == 2 * 4 * factors
    assert (two[low].down["first_download"], two[()].down["first_download"]) == (weights, 0)
    assert (two[low].down["increments"], two[()].down["increments"]) == (0, 4 * factors)
    assert four[low].down["increments"] == 2 * 4 * factors
    totals = cost(net, toy(1), cohorts, profiles=profiles)
    assert [sum(traffic.values(), Traffic()) for traffic in (one, two, three, four)] == totals


def test_a_client_that_lags_far_behind_gets_dense_weights() -> None:
    net = small_net()
    weights = 4 * (net.params["0.weight"].numel() + net.params["3.weight"].numel())
    cohorts = [[0], *[[1]] * 40, [0]]
    assert cost(net, toy(1), cohorts)[-1].down["increments"] == weights
