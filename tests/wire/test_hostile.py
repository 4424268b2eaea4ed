"""Messages that are well-formed, with a correct hash, but not what the receiver expects: nothing of them is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from wire_expected import CODED, DOWN, IN_CODES, INCREMENT, NET, NUMBERS, SPEC, STATE, UP, header, reply
from wire_toy import merged, random_factors

from fedloru import methods, tree
from fedloru import net as nets
from fedloru.errors import WireError
from fedloru.method import Down, Method, Up
from fedloru.net import Net
from fedloru.wire import (
    MessageSpec,
    Sync,
    decode_down,
    decode_sync,
    decode_up,
    encode,
    encode_sync,
    encode_up,
)
from fedloru.wire.grid import SCALES, pack

SITE = NET.sites[0]


def receive_up(data: bytes) -> Up:
    return decode_up(data, SPEC, DOWN, round=4, version=1, client=3)[1]


def test_the_expected_reply_is_accepted() -> None:
    assert tree.equal(receive_up(reply()).shared, UP.shared)


def changed(f: Callable[[torch.Tensor], torch.Tensor], key: str = "1.bias") -> dict[str, torch.Tensor]:
    return UP.shared | {key: f(UP.shared[key])}


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (lambda: reply({}), "lacks the tensors '0.a', '0.b'"),
        (lambda: reply(tree.omit(UP.shared, ["1.bias"])), "lacks the tensors '1.bias'"),
        (lambda: reply(UP.shared | {"evil": torch.ones(1)}), "unknown tensors 'evil'"),
        (lambda: reply(UP.shared | {"\x1b[2J": torch.ones(1)}), r"unknown tensors '\\x1b\[2J'"),
        (lambda: reply(UP.shared | {"y" * 10_000: torch.ones(1)}), "unknown tensors 'y{70,}…"),
        (lambda: reply(UP.shared, UP.aux | {"evil": torch.ones(1)}), "section aux.*unknown tensors 'evil'"),
        (lambda: reply(UP.shared, {}), "section aux.*lacks the tensors 'moment'"),
        (lambda: reply(changed(lambda t: t[:-1])), r"'1.bias' as float32 \(5,\), but float32 \(6,\) is expected"),
        (lambda: reply(changed(lambda t: t[None])), r"'1.bias' as float32 \(1, 6\), but float32 \(6,\)"),
        (lambda: reply(changed(lambda t: t.int())), "'1.bias' as int32"),
        (lambda: reply(changed(lambda t: t.double())), "'1.bias' as float64"),
        (lambda: reply(changed(lambda t: t.bfloat16())), "'1.bias' as bfloat16"),
        (lambda: reply(changed(lambda t: t / 0)), "values in '1.bias' that are not finite"),
        (lambda: reply(changed(lambda t: t * float("nan"), SITE.a)), "that are not finite"),
        (lambda: reply(UP.shared, {"moment": torch.full((6,), float("inf"))}), "'moment' that are not finite"),
        (
            lambda: reply(UP.shared | {SITE.a: torch.ones(SITE.a_shape(1)), SITE.b: torch.ones(SITE.b_shape(1))}),
            "'0.a' as",
        ),
        (lambda: reply(numbers=NUMBERS | {"weight": 1e99}), r"weight 1e\+99; expected examples, 1 to 1e\+09"),
        (lambda: reply(numbers=NUMBERS | {"weight": -3.0}), "weight -3; expected examples"),
        (lambda: reply(numbers=NUMBERS | {"weight": 0.0}), "weight 0; expected examples"),
        (lambda: reply(numbers=NUMBERS | {"weight": 1e308}), r"'weight' is 1e\+308"),
        (lambda: reply(numbers={"loss": 0.5}), "has the numbers 'loss'; expected 'weight', 'loss'"),
        (lambda: reply(numbers=NUMBERS | {"extra": 1.0}), "expected 'weight', 'loss'"),
        (lambda: reply(client=4), "has client 4, but 3 is expected"),
        (lambda: reply(client=-1), "has client -1, but 3 is expected"),
        (lambda: reply(round=5), "has round 5, but 4 is expected"),
        (lambda: reply(version=3), "has version 3, but 1 is expected"),
        (lambda: reply(seed=7), "kind 'up' has seed 7; expected none"),
        (lambda: reply(rank=1), "has rank 1; expected none"),
        (lambda: reply(fresh="a"), "has fresh 'a'; expected none"),
        (lambda: encode(header("down"), {"shared": UP.shared}, "exact"), "kind 'down', but 'up' is expected"),
    ],
)
def test_a_reply_with_anything_else_is_refused(message: Callable[[], bytes], problem: str) -> None:
    with pytest.raises(WireError, match=problem) as refused:
        receive_up(message())
    assert len(str(refused.value)) < 600 and str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("sections", "fields", "problem"),
    [
        ({"shared": STATE.shared}, {"version": 4}, "version 4 in round 4.*expected at most 3"),
        ({"shared": STATE.shared}, {"client": 3}, "kind 'down' has client 3; expected none"),
        ({"shared": STATE.shared}, {"numbers": {"x": 1.0}}, "has numbers .*expected none"),
        ({"shared": STATE.shared}, {"rank": 1}, "rank 1, but no fresh factors"),
        ({"shared": STATE.shared}, {"fresh": "a"}, "fresh factors, but also contains the factors '0.a'"),
        ({"shared": tree.omit(STATE.shared, NET.factors)}, {}, "lacks the tensors"),
        ({"shared": tree.omit(STATE.shared, NET.factors)}, {"fresh": "a", "rank": 1}, r"is expected"),
        ({"shared": tree.omit(STATE.shared, NET.factors)}, {"fresh": "a", "rank": 2**62}, "rank"),
        ({"shared": STATE.shared, "base": {"x": torch.ones(1)}}, {}, "unknown sections 'base'"),
        ({"shared": STATE.shared | {"1.bias": torch.ones(6) / 0}}, {}, "not finite"),
    ],
)
def test_a_down_message_with_anything_else_is_refused(sections: Any, fields: Any, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        decode_down(encode(header("down", **fields), sections, "exact"), SPEC)


def coded(**changes: Callable[[torch.Tensor], torch.Tensor]) -> bytes:
    """Return a reply in codes, in which some tensors are changed; ``scales`` are those of 0.a."""
    keys = {"a": "0.a", "scales": "0.a@scales", "w": "4.weight"}
    return reply(CODED | {keys[name]: f(CODED[keys[name]].clone()) for name, f in changes.items()})


def test_the_expected_reply_in_codes_is_accepted() -> None:
    assert tree.equal(receive_up(coded()).shared, UP.shared)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (lambda: coded(a=lambda t: t[1:]), r"codes '0.a' are uint8 \(17,\); expected 36 codes"),
        (lambda: coded(a=lambda t: torch.cat([t, t])), r"uint8 \(36,\); expected 36 codes"),
        (lambda: coded(a=lambda t: t.view(2, 9)), r"uint8 \(2, 9\); expected 36 codes"),
        (lambda: coded(a=lambda t: t[:0]), r"uint8 \(0,\); expected 36 codes"),
        (lambda: coded(a=lambda t: t.to(torch.int32)), r"int32 \(18,\); expected 36 codes"),
        (lambda: coded(a=lambda t: t.float()), r"float32 \(18,\); expected 36 codes"),
        (lambda: coded(a=lambda t: t.view(torch.int8)), r"int8 \(18,\); expected 36 codes"),
        (lambda: coded(a=lambda t: t | 0x80), "expected 36 codes"),  # padding, but the number is even
        (lambda: coded(a=lambda t: torch.cat([torch.tensor([8], dtype=torch.uint8), t[1:]])), "codes from -8 to"),
        (lambda: coded(w=lambda t: t.fill_(-128)), "'4.weight' has codes from -128 to -128; expected -127 to 127"),
        (lambda: coded(scales=lambda t: t[:1]), r"scales of '0.a' are float32 \(1,\); expected float32 \(2,\)"),
        (lambda: coded(scales=lambda t: t[None]), r"float32 \(1, 2\); expected"),
        (lambda: coded(scales=lambda t: t.double()), r"float64 \(2,\); expected"),
        (lambda: coded(scales=lambda t: t.fill_(-1.0)), "scales of '0.a' have values that are negative or not finite"),
        (lambda: coded(scales=lambda t: t.fill_(float("inf"))), "negative or not finite"),
        (lambda: coded(scales=lambda t: t.fill_(float("nan"))), "negative or not finite"),
        (lambda: reply(tree.omit(CODED, ["0.a@scales"])), r"'0.a' as uint8 \(18,\), but float32 \(2, 2, 3, 3\)"),
        (lambda: reply(tree.omit(CODED, ["0.a"])), "lacks the tensors '0.a'"),
        (lambda: reply(CODED | {"evil@scales": CODED["0.a@scales"]}), "unknown tensors 'evil@scales'"),
        (lambda: reply(CODED | {"evil": CODED["0.a"], "evil@scales": torch.ones(2)}), "unknown tensors 'evil'"),
        (lambda: reply(CODED | {"1.bias@scales": torch.ones(1)}), "unknown tensors '1.bias@scales'"),
    ],
)
def test_a_reply_with_other_codes_or_scales_is_refused(message: Callable[[], bytes], problem: str) -> None:
    with pytest.raises(WireError, match=problem) as refused:
        receive_up(message())
    assert len(str(refused.value)) < 600 and str(refused.value).isprintable()


def test_huge_scales_become_large_values_at_most() -> None:
    up = receive_up(coded(scales=lambda t: t.fill_(3e38), a=lambda t: t.fill_(0x77)))
    assert up.shared["0.a"].isfinite().all()


WEIGHTS = tree.select(STATE.base, [site.weight for site in NET.sites])


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({}, "version 2 requires 'increment.2'"),
        ({"increment.2": {"x": torch.ones(1)}}, "lacks the tensors"),
        ({"increment.2": INCREMENT | {"x": torch.ones(1)}}, "unknown tensors 'x'"),
        ({"increment.2": INCREMENT | {SITE.b: torch.ones(SITE.b_shape(2))}}, "is expected"),
        ({"increment.2": {key: t[:0] for key, t in INCREMENT.items()}}, "is expected"),
        ({"increment.2": tree.map(lambda t: t / 0, INCREMENT)}, "not finite"),
        ({"increment.2": tree.map(lambda t: t.double(), INCREMENT)}, "float64"),
        ({"increment.2": random_factors(NET, 1, rank=9)}, "the increments of the sync message take"),
        ({"increment.1": INCREMENT, "increment.2": INCREMENT}, "requires 'increment.2'"),
        ({"increment.3": INCREMENT}, "requires 'increment.2'"),
        ({"increment.02": INCREMENT}, "requires 'increment.2'"),
        ({"base": STATE.base, "sites": WEIGHTS}, "expected only 'base'"),
        ({"base": tree.omit(WEIGHTS, [SITE.weight])}, "the base.*lacks the tensors '0.weight'"),
        ({"increment.2": IN_CODES | {"x": torch.ones(1)}}, "unknown tensors 'x'"),
        ({"increment.2": IN_CODES | {SITE.a: IN_CODES[SITE.a][1:]}}, "expected"),
        ({"increment.2": IN_CODES | {SITE.b: IN_CODES[SITE.b][1:]}}, "expected 6 codes"),
        ({"increment.2": IN_CODES | {SITE.a: IN_CODES[SITE.a][:0]}}, "expected 18 codes"),
        ({"increment.2": IN_CODES | {SITE.a + SCALES: torch.ones(9)}}, "expected float32"),
        ({"increment.2": pack(random_factors(NET, 1, rank=70), dict.fromkeys(INCREMENT, 4))}, "increments .* take"),
        ({"base": STATE.base | pack(WEIGHTS, dict.fromkeys(WEIGHTS, 8))}, "the base.*unknown tensors"),
        ({"sites": WEIGHTS | {"x": torch.ones(1)}}, "the base.*unknown tensors 'x'"),
        ({"sites": WEIGHTS | {SITE.weight: WEIGHTS[SITE.weight][:1]}}, "is expected"),
    ],
)
def test_a_sync_message_with_anything_else_is_refused(sections: Any, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        decode_sync(encode(header("sync", version=2), sections, "exact"), SPEC, held=1)


def test_a_sync_message_of_a_far_version_is_refused_at_once() -> None:
    data = encode(header("sync", round=2**63 - 1, version=2**62), {}, "exact")
    with pytest.raises(WireError, match="report the version"):
        decode_sync(data, SPEC, held=0)


def test_the_sync_messages_of_a_ledger_are_accepted() -> None:
    state = merged(NET, STATE, INCREMENT)
    for sync in (Sync(1, ((1, INCREMENT),), {}), Sync(1, (), state.base, first=True), Sync(1, (), WEIGHTS)):
        data = encode_sync(sync, state, method="toy", run="ab12", codec="exact")
        assert decode_sync(data, SPEC, held=0)[1]._replace(base={}, increments=()) == Sync(1, (), {}, sync.first)


def masked_net() -> Net:
    """Return a net with a buffer of -inf above the diagonal, as attention masks have."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    model[0].register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    return nets.attach(model, rank=1)


def test_values_that_are_not_finite_in_the_model_may_be_sent() -> None:
    net, method = masked_net(), methods.fedloru(recipe="paper")
    spec = MessageSpec(net, method, "r")
    state = method.init(net, 0)
    data = encode_up(
        net,
        Up(state.shared),
        Down({}),
        method="fedloru",
        run="r",
        client=0,
        round=1,
        version=0,
        codec="fp32",
        numbers=NUMBERS,
    )
    assert tree.equal(decode_up(data, spec, Down({}), round=1, version=0)[1].shared, state.shared)


def test_a_method_that_prunes_may_send_lower_ranks_but_not_higher_ones() -> None:
    net = nets.attach(torch.nn.Linear(6, 5), rank=3)
    method: Method = methods.hetlora()
    spec, state = MessageSpec(net, method, "r"), method.init(net, 0)
    (site,) = net.sites

    def send(a: int, b: int) -> bytes:
        shared = state.shared | {site.a: torch.ones(site.a_shape(a)), site.b: torch.ones(site.b_shape(b))}
        settings = {"method": "hetlora", "run": "r", "client": 0, "round": 1, "version": 0, "codec": "exact"}
        return encode_up(net, Up(shared), Down({}), **settings, numbers=NUMBERS)

    assert len(decode_up(send(2, 2), spec, Down({}), round=1, version=0)[1].shared[site.a]) == 2
    for a, b in ((4, 4), (2, 1), (0, 0), (3, 4)):
        with pytest.raises(WireError, match="is expected"):
            decode_up(send(a, b), spec, Down({}), round=1, version=0)
