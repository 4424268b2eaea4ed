from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from wire_toy import merged, noise, random_factors, small_net, start, toy

from fedloru import lowrank, tree
from fedloru.errors import WireError
from fedloru.method import Down, State, Up
from fedloru.wire import MessageSpec, decode, decode_down, decode_up, encode_down, encode_sync, encode_up
from fedloru.wire.ledger import Sync

NET = small_net()
START = start(NET, seed=5)
DOWN = Down(START.shared)
NAMES = {"method": "toy", "run": "ab12"}
SPEC = MessageSpec(NET, toy(2), "ab12")


def state_at(version: int, init: str) -> State:
    fresh = lowrank.init_factors(NET.sites, START.seed, version, NET.params, init)
    return START._replace(version=version, round=9, shared=START.shared | fresh)


@pytest.mark.parametrize("init", ["a", "both"])
@pytest.mark.parametrize("version", [0, 3])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_fresh_factors_are_omitted_and_drawn_by_the_receiver_bit_for_bit(version: int, init: str, codec: str) -> None:
    state = state_at(version, init)
    data = encode_down(NET, Down(state.shared, fresh=init), state, **NAMES, codec=codec)
    header, received = decode_down(data, SPEC)
    assert (header.fresh, header.seed, header.version, header.round) == (init, 5, version, 10)
    assert not decode(data)[1]["shared"].keys() & NET.factors
    assert received.shared.keys() == state.shared.keys()
    assert tree.equal(tree.select(received.shared, NET.factors), tree.select(state.shared, NET.factors))


def changed(key: str) -> dict[str, torch.Tensor]:
    value = START.shared[key].clone()
    value.view(-1)[-1] += 1e-3
    return START.shared | {key: value}


@pytest.mark.parametrize(
    "shared",
    [
        *(changed(key) for site in NET.sites for key in site.keys),
        START.shared | lowrank.init_factors(NET.sites, START.seed, 1, NET.params),
    ],
)
def test_factors_that_differ_in_any_way_are_sent(shared: dict[str, torch.Tensor]) -> None:
    data = encode_down(NET, Down(shared), START, **NAMES, codec="fp32")
    header, received = decode_down(data, SPEC)
    assert header.fresh == "" and tree.equal(received.shared, shared)


def test_a_decoded_reply_has_its_tensors_and_numbers() -> None:
    up = Up(noise(START.shared, "up"), {"moment": torch.ones(6)})
    where = {"round": 4, "version": 2}
    data = encode_up(NET, up, DOWN, **NAMES, **where, client=11, codec="fp32", numbers={"weight": 600, "loss": 0.1})
    header, received = decode_up(data, SPEC, DOWN, **where)
    assert tree.equal(received.shared, up.shared) and tree.equal(received.aux, up.aux)
    assert (header.client, header.numbers) == (11, {"weight": 600.0, "loss": 0.1})
    with pytest.raises(WireError, match="up message for round 4 has round 4, but 5 is expected"):
        decode_up(data, SPEC, DOWN, round=5, version=2)


def test_a_message_of_another_model_or_kind_is_rejected() -> None:
    data = encode_down(NET, Down(START.shared), START, **NAMES, codec="fp32")
    with pytest.raises(WireError, match="base model differs"):
        decode_down(data, MessageSpec(NET, toy(2), "cd34"))
    with pytest.raises(WireError, match="kind 'down', but 'up' is expected"):
        decode_up(data, SPEC, DOWN, round=1, version=0)


CLIENT = """
import sys
from wire_toy import small_net, start, toy
from fedloru import tree
from fedloru.method import Up
from fedloru.wire import MessageSpec, catch_up, decode_down, decode_sync, encode_up, since

length = int.from_bytes(sys.stdin.buffer.read(8), "little")
sync, down = sys.stdin.buffer.read(length), sys.stdin.buffer.read()
net = small_net()
spec = MessageSpec(net, toy(2), "ab12")
_, sync = decode_sync(sync, spec, held=0)
base = catch_up(net.sites, start(net, 5).base, since(sync, held=0))
header, down = decode_down(down, spec)
up = Up(down.shared, {"moment": base["3.weight"].sum(1)[:6]})
where = {"round": header.round, "version": header.version, "client": 1}
sys.stdout.buffer.write(encode_up(net, up, down, method="toy", run="ab12", **where, codec="exact", numbers={}))
"""


def test_a_process_that_receives_only_bytes_has_the_same_base_and_factors() -> None:
    state = merged(NET, START, random_factors(NET, 1, rank=2))
    state = state._replace(shared=state.shared | lowrank.init_factors(NET.sites, state.seed, 1, NET.params))
    sync = encode_sync(Sync(1, ((1, state.increment),), {}), state, **NAMES, codec="exact")
    down = encode_down(NET, Down(state.shared), state, **NAMES, codec="fp32")
    stream = len(sync).to_bytes(8, "little") + sync + down
    here = Path(__file__).parent
    command = [sys.executable, "-c", CLIENT]
    reply = subprocess.run(command, input=stream, capture_output=True, check=True, cwd=here, timeout=60).stdout
    _, up = decode_up(reply, SPEC, DOWN, round=2, version=1, client=1, numbers=())
    moment = state.base["3.weight"].sum(1)[:6]
    assert tree.equal(up.shared, state.shared) and tree.equal(up.aux, {"moment": moment})
