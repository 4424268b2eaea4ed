from __future__ import annotations

import pytest
import torch
from wire_toy import merged, noise, random_factors, small_net, start

from fedloru import tree
from fedloru.method import Down, Up
from fedloru.net import Net
from fedloru.wire import Channel, Sync, encode_down, encode_sync, encode_up, payload

NET = small_net()
START = start(NET, seed=5)
NOTHING = Down({})
TRAINED = START._replace(shared=noise(START.shared, "trained"))


def channel(codec: str = "fp32", round_trip: bool = True, net: Net = NET) -> Channel:
    return Channel(net, "toy", "ab12", codec, round_trip)


def test_a_message_arrives_with_the_order_and_dtypes_it_was_sent_with() -> None:
    wire = channel("bf16")
    received = wire.down(Down(TRAINED.shared, {"c": torch.ones(2, dtype=torch.float64)}), TRAINED, clients=1)
    assert list(received.shared) == list(TRAINED.shared)
    assert tree.equal(received.shared, {k: t.bfloat16().float() for k, t in TRAINED.shared.items()})
    assert received.aux["c"].dtype == torch.float64
    fresh = wire.down(Down(START.shared), START, clients=1)
    assert list(fresh.shared) == list(START.shared)


def test_bytes_down_are_counted_per_client_and_kind() -> None:
    wire = channel()
    wire.down(Down(TRAINED.shared), TRAINED, clients=3)
    data = encode_down(NET, Down(TRAINED.shared), TRAINED, method="toy", run="ab12", codec="fp32")
    table = wire.traffic.table()["down"]
    assert wire.traffic.total("down") == 3 * len(data)
    assert table["factors"] == 3 * 4 * sum(site.values() for site in NET.sites)
    assert table["envelope"] == 3 * (len(data) - 4 * tree.size(TRAINED.shared))


def test_fresh_factors_count_no_bytes() -> None:
    for wire in (channel(), channel(round_trip=False)):
        wire.down(Down(START.shared, fresh="a"), START, clients=2)
        table = wire.traffic.table()["down"]
        assert table["factors"] == 0
        assert table["dense"] == 2 * 4 * tree.size(tree.select(START.shared, NET.trainable - NET.factors))


def test_bytes_up_are_the_length_of_the_reply() -> None:
    wire = channel("fp16")
    up = Up(TRAINED.shared, {"c": torch.ones(3)})
    received = wire.up(up, NOTHING, client=2, round=1, version=0, numbers={"weight": 5.0})
    settings = {"method": "toy", "run": "ab12", "client": 2, "round": 1, "version": 0}
    data = encode_up(NET, up, NOTHING, **settings, codec="fp16", numbers={"weight": 5.0})
    assert wire.traffic.total("up") == len(data) and wire.traffic.table()["up"]["aux"] == 6
    assert tree.equal(received.shared, {k: t.half().float() for k, t in up.shared.items()})


def test_sync_is_lossless_and_counted_by_kind_and_an_empty_one_is_not_sent() -> None:
    wire = channel("bf16")
    state = merged(NET, START, random_factors(NET, 1, rank=2))
    increments = Sync(1, ((1, state.increment),), {})
    first = Sync(1, (), state.base, first=True)
    dense = Sync(1, (), tree.select(state.base, [site.weight for site in NET.sites]))
    for sync in (increments, increments, first, dense, Sync(1, (), {})):
        wire.sync(sync, state)
    lengths = [
        len(encode_sync(sync, state, method="toy", run="ab12", codec="bf16"))
        for sync in (increments, increments, first, dense)
    ]
    table = wire.traffic.table()["down"]
    assert table["increments"] == 2 * tree.nbytes(state.increment) + tree.nbytes(dense.base)
    assert table["first_download"] == tree.nbytes(state.base)
    assert wire.traffic.total("down") == sum(lengths)


def test_without_a_round_trip_tensors_are_unchanged_and_the_payload_is_the_same() -> None:
    formula, real = channel("bf16", round_trip=False), channel("bf16")
    down, up = Down(TRAINED.shared), Up(TRAINED.shared)
    assert formula.down(down, TRAINED, 4) is down and formula.up(up, NOTHING, 0, 1, 0, {}) is up
    real.down(down, TRAINED, 4)
    real.up(up, NOTHING, 0, 1, 0, {})
    for wire in (formula, real):
        wire.sync(Sync(0, (), START.base, first=True), START)
    difference = (real.traffic - formula.traffic).table()
    assert {k for d in difference.values() for k, n in d.items() if n} == {"envelope"}
    assert formula.traffic.total("up") == payload({"shared": up.shared}, "bf16")
    assert (formula.measured, real.measured) == (False, True)


def test_a_net_without_sites_sends_everything_dense() -> None:
    plain = NET._replace(sites=())
    wire = channel(net=plain)
    shared = {"4.weight": NET.params["4.weight"]}
    wire.down(Down(shared), START, clients=1)
    assert wire.traffic.table()["down"]["dense"] == 4 * 30


@pytest.mark.parametrize("round_trip", [True, False])
def test_traffic_is_counted_by_profile_and_summed(round_trip: bool) -> None:
    """The counts of two profiles on one channel equal those of two separate channels."""
    low, small = (("rank", 1.0),), Up({"4.weight": torch.zeros(3)})
    both, default_only, low_only = (channel(round_trip=round_trip) for _ in range(3))
    for wire, profile in ((both, {}), (default_only, {})):
        wire.sync(Sync(0, (), START.base, first=True), START, **profile)
        wire.down(Down(TRAINED.shared), TRAINED, 2, **profile)
        wire.up(Up(TRAINED.shared), NOTHING, 0, 1, 0, {}, **profile)
    for wire, profile in ((both, {"profile": low}), (low_only, {})):
        wire.sync(Sync(1, (), {"0.weight": START.base["0.weight"]}), START, **profile)
        wire.down(Down(small.shared), TRAINED, 3, **profile)
        wire.up(small, NOTHING, 1, 1, 0, {}, **profile)
    assert both.accounts == {(): default_only.traffic, low: low_only.traffic}
    assert both.traffic == default_only.traffic + low_only.traffic
    assert default_only.traffic.total("up") > low_only.traffic.total("up") > 0
