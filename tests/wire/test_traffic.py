from __future__ import annotations

import json

import pytest
import torch
from wire_toy import small_net, start

from fedloru.errors import WireError
from fedloru.wire import KINDS, Traffic, kinds


def test_traffic_adds_subtracts_and_survives_json() -> None:
    before = Traffic(down={"factors": 100}, up={"envelope": 7})
    after = before + Traffic(down={"factors": 50, "dense": 5})
    assert after.total("down") == 155 and after.total("up") == 7
    assert (after - before).table()["down"] == dict.fromkeys(KINDS, 0) | {"factors": 50, "dense": 5}
    assert before + (after - before) == after == Traffic(**json.loads(json.dumps(after.table())))
    assert set(before.table()["up"]) == set(KINDS)


def test_an_unknown_kind_is_rejected() -> None:
    with pytest.raises(WireError, match=r"'gossip'.*expected factors"):
        Traffic(up={"gossip": 1})


def test_a_message_is_counted_by_kind_and_number_of_copies() -> None:
    parts = {"factors": {"w.a": torch.zeros(4)}, "aux": {"c": torch.zeros(1, dtype=torch.float64)}}
    counted = Traffic().message("up", parts, "bf16", length=90, copies=3).table()["up"]
    assert (counted["factors"], counted["aux"], counted["envelope"]) == (3 * 8, 3 * 2, 3 * 20)
    assert Traffic().message("up", parts, "bf16").total("up") == 10


def test_kinds_splits_tensors_by_their_role_in_the_net() -> None:
    net = small_net()
    state = start(net, seed=0)
    nested = {"0.a.down": torch.zeros(2, 1)}
    split = kinds(net, state.shared | nested, {"0.weight": torch.zeros(1)}, "fp32")
    assert split["factors"].keys() == {"0.a", "0.b", "3.a", "3.b", "0.a.down"}
    assert split["statistics"].keys() == {"1.running_mean", "1.running_var"}
    assert split["dense"].keys() == {"0.bias", "1.weight", "1.bias", "3.bias", "4.weight", "4.bias"}
    assert split["aux"].keys() == {"0.weight"}
    codes = kinds(net, state.shared, {"0.weight": torch.zeros(2, 2)}, "int4")
    assert codes["factors"].keys() == {f"{key}{scales}" for key in net.factors for scales in ("", "@scales")}
    assert codes["dense"].keys() == split["dense"].keys() | {"4.weight@scales"}
    assert codes["statistics"].keys() == split["statistics"].keys()
    assert codes["aux"].keys() == {"0.weight", "0.weight@scales"}
