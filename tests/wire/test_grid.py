"""Integer codes: the grid and its rounding, what is sent as codes, and messages with codes in both directions."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wire_toy import merged, noise, random_factors, small_net, start, toy

from fedloru import lowrank, methods, tree
from fedloru.errors import WireError
from fedloru.method import Down, Up
from fedloru.rng import gen
from fedloru.tree import Params
from fedloru.wire import (
    Channel,
    Codec,
    Ledger,
    MessageSpec,
    Sync,
    decode,
    decode_down,
    decode_sync,
    decode_up,
    encode_down,
    encode_sync,
    encode_up,
    payload,
)
from fedloru.wire.codec import CODECS, find
from fedloru.wire.grid import LEVELS, SCALES, on_grid, outline, pack, unpack, widths

NET = small_net()
START = start(NET, seed=5)
TRAINED = START._replace(shared=noise(START.shared, "trained"), round=3)
SPEC = MessageSpec(NET, toy(2), "ab12")
NAMES = {"method": "toy", "run": "ab12"}
INTEGER = ("int8", "int4")


def matrix(o: int = 5, i: int = 8, *path: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(o, i, generator=gen(0, "matrix", *path)).to(dtype)


def rounded(x: Tensor, bits: int, draw: Any = None) -> Tensor:
    """Return ``x`` as its receiver has it."""
    return unpack(pack({"w": x}, {"w": bits}, draw), {"w": x})["w"]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("shape", "axis"), [((3, 8), 1), ((8, 3), 0), ((4, 4), 1), ((2, 3, 5, 5), 1)])
def test_codes_and_scales_by_the_formula(bits: int, shape: tuple[int, ...], axis: int) -> None:
    """One scale for each row, or for each column if there are fewer; c = round(x/m·L), and the value is c·m/L."""
    x, levels = torch.randn(shape, generator=gen(0, "x")), LEVELS[bits]
    rows = x.flatten(1)
    m = rows.abs().amax(axis, keepdim=True)
    codes = (rows / m * levels).round()
    packed = pack({"w": x}, {"w": bits})
    assert torch.equal(packed["w" + SCALES], m.flatten())
    if bits == 8:
        assert torch.equal(packed["w"], codes.flatten().to(torch.int8))
    assert torch.equal(rounded(x, bits), (codes.double() * m.double() / levels).float().reshape(shape))
    assert ((rounded(x, bits) - x).abs().flatten(1) <= m / (2 * levels) * (1 + 1e-6)).all()


def test_two_codes_of_4_bits_share_a_byte_the_first_in_the_lower_half() -> None:
    packed = pack({"w": torch.tensor([[7.0, -1.0, 3.0], [0.0, 7.0, -7.0]])}, {"w": 4})
    assert packed["w"].tolist() == [7 | 15 << 4, 3 | 0 << 4, 7 | 9 << 4]
    odd = pack({"w": torch.tensor([[-7.0, 2.0, 1.0]])}, {"w": 4})
    assert odd["w"].tolist() == [9 | 2 << 4, 1 | 8 << 4]
    assert unpack(odd, {"w": torch.empty(1, 3)})["w"].tolist() == [[-7, 2, 1]]


@pytest.mark.parametrize("bits", [8, 4])
def test_stochastic_rounding_is_unbiased_and_off_by_less_than_a_step(bits: int) -> None:
    """The mean of n draws has a standard deviation of at most step/(2√n)."""
    x, n = matrix(), 4000
    step = x.abs().amax(1, keepdim=True) / LEVELS[bits]
    draws = torch.stack([rounded(x, bits, partial(gen, 1, k)) for k in range(n)])
    assert ((draws - x).abs() <= step * (1 + 1e-5)).all()
    assert (((draws.double().mean(0) - x) / step).abs() < 4.5 / (2 * n**0.5) + 1e-3).all()
    assert ((draws != draws[0]).any(0).sum(1) >= 6).all()  # all but the largest, and values next to the grid


DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 7), st.integers(1, 7), st.integers(-46, 37), DTYPES, st.sampled_from([4, 8])
)
def test_values_on_the_grid_stay_unchanged(seed: int, o: int, i: int, exponent: int, dtype: Any, bits: int) -> None:
    """Whatever the magnitude, down to values that are subnormal or 0; half-precision only with nearest rounding."""
    x = torch.randn(o, i, dtype=torch.float64, generator=gen(seed, "x")).mul(10.0**exponent).to(dtype)
    x = x.where(x.isfinite(), 1.0)
    once = rounded(x, bits)
    assert torch.equal(rounded(once, bits), once)
    drawn = rounded(x, bits, partial(gen, seed))
    normal = float(x.abs().max()) > 1e-30
    if normal and dtype in (torch.float32, torch.float64):
        assert torch.equal(rounded(drawn, bits, partial(gen, seed + 1)), drawn)
        assert torch.equal(rounded(once, bits, partial(gen, seed + 1)), once)


def test_zeros_and_empty_tensors() -> None:
    x = torch.tensor([[0.0, 0.0, 0.0], [0.0, -2.0, 1.0]])
    assert rounded(x, 4, partial(gen, 0))[0].tolist() == [0, 0, 0]
    assert widths(NET, "shared", {"w": torch.empty(0, 4), "v": torch.empty(4, 0)}, "int4") == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300])
def test_a_value_without_a_code_is_refused_by_its_key(value: float) -> None:
    x = torch.ones(2, 3, dtype=torch.float64)
    x[1, 2] = value
    with pytest.raises(
        WireError, match=r"4\.weight has a value that is not finite, or too large .*use the codec exact"
    ):
        pack({"4.weight": x}, {"4.weight": 8})


def test_matrices_are_sent_as_codes_factors_in_the_bits_of_the_codec() -> None:
    tensors = START.shared | {"n": torch.ones(2, 2, dtype=torch.int64), "new": torch.ones(2, 2)}
    for codec, bits in (("int8", 8), ("int4", 4)):
        expected = dict.fromkeys(NET.factors, bits) | {"4.weight": 8, "new": 8}
        assert widths(NET, "shared", tensors, codec) == expected
        assert set(widths(NET, "aux", tensors, codec).values()) == {8}
    assert widths(NET, "shared", tensors, "bf16") == {}
    mask = NET._replace(buffers={"mask": torch.full((3, 3), -torch.inf)})
    assert widths(mask, "shared", mask.buffers, "int8") == {}


@pytest.mark.parametrize("codec", INTEGER)
def test_the_outline_of_a_message_is_what_is_sent(codec: str) -> None:
    bits = widths(NET, "shared", START.shared, codec)
    packed, shape = pack(START.shared, bits), outline(START.shared, bits)
    assert {key: (t.shape, t.dtype) for key, t in packed.items()} == {k: (t.shape, t.dtype) for k, t in shape.items()}


def down_of(codec: str, seed: int = 5) -> tuple[bytes, Down]:
    state = TRAINED._replace(seed=seed)
    data = encode_down(NET, Down(state.shared), state, **NAMES, codec=codec)
    return data, decode_down(data, SPEC)[1]


@pytest.mark.parametrize("codec", INTEGER)
def test_all_clients_of_a_round_receive_the_same_bits(codec: str) -> None:
    """Stochastic rounding by (seed, round); what is not a matrix arrives unchanged."""
    data, down = down_of(codec)
    assert down_of(codec)[0] == data and not tree.equal(down_of(codec, seed=6)[1].shared, down.shared)
    arrived = Channel(NET, "toy", "ab12", codec).down(Down(TRAINED.shared), TRAINED, clients=2)
    assert tree.equal(arrived.shared, down.shared) and (arrived.seed, arrived.round) == (5, 4)
    for key, bits in widths(NET, "shared", TRAINED.shared, codec).items():
        x = TRAINED.shared[key]
        step = x.flatten(1).abs().max() / LEVELS[bits]
        assert 0 < (down.shared[key] - x).abs().max() <= step * (1 + 1e-5)
    vectors = [key for key, t in TRAINED.shared.items() if t.dim() < 2]
    assert tree.equal(tree.select(down.shared, vectors), tree.select(TRAINED.shared, vectors))


def sent_up(codec: str, up: Up, down: Down, client: int = 2) -> tuple[bytes, Up]:
    names = NAMES | {"client": client, "round": 4, "version": 0}
    data = encode_up(NET, up, down, **names, codec=codec, numbers={"weight": 3.0, "loss": 0.5})
    return data, decode_up(data, SPEC, down, round=4, version=0, client=client)[1]


@pytest.mark.parametrize("codec", INTEGER)
def test_clients_send_what_they_have_changed(codec: str) -> None:
    """The error is a step of the change, not of the value; clients draw independently; no change is exact."""
    _, down = down_of(codec)
    change = tree.scale(noise(down.shared, "change"), 1e-3)
    up = Up(tree.add(down.shared, change), {"moment": torch.ones(6)})
    data, arrived = sent_up(codec, up, down)
    for key, bits in widths(NET, "shared", up.shared, codec).items():
        step = change[key].abs().max() / LEVELS[bits]
        assert 0 < (arrived.shared[key] - up.shared[key]).abs().max() <= step * (1 + 1e-3)
    assert not tree.equal(sent_up(codec, up, down, client=3)[1].shared, arrived.shared)
    unchanged = Up(down.shared, up.aux)
    assert tree.equal(sent_up(codec, unchanged, down)[1].shared, down.shared)
    channel = Channel(NET, "toy", "ab12", codec)
    (again,) = channel.replies([up], down, [2], 4, 0, [{"weight": 3.0, "loss": 0.5}])
    assert tree.equal(again.shared, arrived.shared) and channel.traffic.total("up") == len(data)


def test_tensors_of_another_shape_than_received_are_sent_themselves() -> None:
    channel, up = Channel(NET, "toy", "ab12", "int8"), Up({"0.a": noise(START.shared, "x")["0.a"][:1]})
    arrived = channel.up(up, Down(TRAINED.shared), 0, 1, 0, {})
    assert (arrived.shared["0.a"] - up.shared["0.a"]).abs().max() <= up.shared["0.a"].abs().max() / 127 * 1.001


@pytest.mark.parametrize("codec", INTEGER)
@pytest.mark.parametrize("round_trip", [True, False])
def test_the_payload_is_that_of_codes_and_scales(codec: str, round_trip: bool) -> None:
    channel = Channel(NET, "toy", "ab12", codec, round_trip)
    channel.down(Down(TRAINED.shared), TRAINED, clients=3)
    table, half = channel.traffic.table()["down"], 1 if codec == "int8" else 2
    factors = tree.select(TRAINED.shared, NET.factors)
    assert table["factors"] == 3 * sum(-(-t.numel() // half) + 4 * 2 for t in factors.values())  # of rank 2
    vectors = sum(t.numel() for key, t in TRAINED.shared.items() if t.dim() == 1 and key in NET.params)
    assert table["dense"] == 3 * (4 * vectors + 30 + 4 * 3)
    assert table["statistics"] == 3 * 4 * 12


def test_large_factors_take_almost_an_eighth_or_a_quarter_of_fp32() -> None:
    x = {"w.a": torch.empty(16, 4096, device="meta")}
    whole = payload({"": x}, "fp32")
    assert [round(whole / payload({"": outline(x, {"w.a": bits})}, "fp32"), 2) for bits in (4, 8)] == [7.98, 4.0]


@pytest.mark.parametrize("codec", INTEGER)
@pytest.mark.parametrize("rank", [1, 2, 3, 20])
def test_increments_on_the_grid_are_sent_without_loss_at_any_rank(codec: str, rank: int) -> None:
    after = merged(NET, START, random_factors(NET, 1, rank))
    state = on_grid(NET.sites, START, after, codec)
    assert not tree.equal(state.increment, after.increment)
    assert tree.equal(state.base, lowrank.merge(NET.sites, START.base, state.increment))
    ledger = Ledger(NET.sites, START, first_download=False, codec=codec)
    ledger.record(state)
    owed = Sync(1, ((1, state.increment),), {})
    data = encode_sync(owed, state, **NAMES, codec=codec)
    sizes = [t.nbytes for t in decode(data)[1]["increment.1"].values()]
    dense = tree.nbytes({site.weight: START.base[site.weight] for site in NET.sites})
    assert bool(ledger.owed(0, state).base) == (sum(sizes) > dense)
    if sum(sizes) <= dense:
        assert tree.equal(decode_sync(data, SPEC, held=0)[1].increments[0][1], state.increment)
    channel = Channel(NET, "toy", "ab12", codec)
    channel.sync(owed, state)
    assert channel.traffic.total("down") == len(data) and channel.traffic.table()["down"]["increments"] == sum(sizes)


def test_increments_may_have_one_factor_of_a_site_and_stay_unchanged_without_codes_or_merge() -> None:
    a = NET.sites[0].a
    part: Params = {a: random_factors(NET, 1, 2)[a]}
    assert unpack(pack(part, {a: 4}), part).keys() == {a}
    after = merged(NET, START, random_factors(NET, 1, 2))
    assert on_grid(NET.sites, START, after, "bf16") is after
    assert on_grid(NET.sites, after, after, "int4") is after


def test_a_codec_of_another_package_may_have_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS._entries, "half", Codec(torch.bfloat16, bits=4))
    monkeypatch.setitem(CODECS._entries, "three", Codec(torch.float32, bits=3))  # type: ignore[arg-type]
    find.cache_clear()
    down = Channel(NET, "toy", "r", "half").down(Down(TRAINED.shared), TRAINED, clients=1)
    assert torch.equal(down.shared["0.bias"], TRAINED.shared["0.bias"].bfloat16().float())
    assert torch.allclose(down.shared["0.a"], down_of("int4")[1].shared["0.a"], rtol=2**-8)  # scales are bf16 too
    with pytest.raises(WireError, match="bits = 3; expected 4, 8, or 0"):
        find("three")


def test_rounding_down_is_not_carried_into_the_next_round() -> None:
    """The server adds what a client has changed to its own values, not to the rounded ones."""
    net, method = small_net(), methods.fedlora()
    state = method.init(net, 3)
    shared = {key: value + 0.1 * torch.rand(value.shape) for key, value in state.shared.items()}
    state = state._replace(round=1, shared=shared)
    channel = Channel(net, "fedlora", "run", "int4")
    arrived = channel.down(method.down(net, state, ()), state, 1)
    assert not tree.equal(tree.select(arrived.shared, net.factors), tree.select(shared, net.factors))
    up = channel.up(Up(arrived.shared), arrived, 0, 2, 0, {"weight": 1.0, "loss": 0.0})
    assert tree.equal(tree.select(up.shared, net.factors), tree.select(shared, net.factors))
