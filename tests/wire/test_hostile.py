"""Messages that are well-formed, with a correct hash, but not what the receiver expects: nothing of them is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_toy import merged, random_factors, small_net, start, toy

from fedloru import methods, tree
from fedloru import net as nets
from fedloru.errors import FedloruError, WireError
from fedloru.method import Down, Method, Up
from fedloru.net import Net
from fedloru.wire import (
    Header,
    MessageSpec,
    Sync,
    decode_down,
    decode_sync,
    decode_up,
    encode,
    encode_sync,
    encode_up,
)
from fedloru.wire.grid import SCALES, increment_widths, pack
from fedloru.wire.sections import down_sections, up_sections

NET = small_net()
STATE = start(NET, seed=5)
SPEC = MessageSpec(NET, toy(2), "ab12")
DOWN = Down(STATE.shared)
UP = Up(STATE.shared, {"moment": torch.ones(6)})
NUMBERS = {"weight": 5.0, "loss": 0.5}
SITE = NET.sites[0]


def header(kind: str, round: int = 4, version: int = 1, **fields: Any) -> Header:
    return Header(kind, "toy", "ab12", round, version, **fields)


def reply(shared: Any = UP.shared, aux: Any = UP.aux, **fields: Any) -> bytes:
    fields = {"client": 3, "numbers": NUMBERS} | fields
    return encode(header("up", **fields), {"shared": shared, "aux": aux}, "exact")


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


CODED = up_sections(NET, UP, DOWN, 3, "int4")["shared"]
"""The shared tensors of a reply in codes: of 4 bits for the factors 0.a (2, 2, 3, 3), and of 8 for 4.weight (3, 10)."""


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


INCREMENT = random_factors(NET, 1, rank=1)
IN_CODES = pack(INCREMENT, increment_widths(INCREMENT, "int4"))
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


MESSAGES = [
    reply(),
    encode(header("down"), {"shared": STATE.shared}, "exact"),
    encode(header("down", fresh="a"), {"shared": tree.omit(STATE.shared, NET.factors)}, "bf16"),
    encode(header("sync", version=1), {"increment.1": INCREMENT}, "exact"),
    reply(CODED),
    encode(header("down"), down_sections(NET, DOWN, STATE, "int4"), "exact"),
    encode(header("sync", version=1), {"increment.1": IN_CODES}, "exact"),
    encode(header("sync", version=1), {"base": STATE.base}, "exact"),
]
VALUES = st.sampled_from(
    [
        *(-1, 0, 1, 2, 2**31, 2**63, 2**64, 10**400, 1.5, 1e308, float("nan"), None, True, "x", "", [], {}, [[]]),
        *("F32", "F64", "BF16", "I64", "BOOL", "C64", "F8_E8M0", "F4", "down", "up", "sync", "a", "both", "s", "d"),
    ]
)


def edited(draw: Callable[[Any], Any], value: Any) -> Any:
    """Return a JSON value with one node replaced, removed or renamed."""
    if not isinstance(value, dict | list) or not value:
        return deepcopy(draw(VALUES))
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = draw(st.sampled_from(list(keys)))
    change = draw(st.sampled_from(["inside", "inside", "inside", "replace", "remove", "rename"]))
    if change == "inside":
        value[key] = edited(draw, value[key])
    elif change == "replace":
        value[key] = deepcopy(draw(VALUES))
    elif change == "remove":
        del value[key]
    elif isinstance(value, dict):
        value[
            draw(
                st.sampled_from(
                    ["x", "a/b", "shared/x", "base/x", "increment.9/x", "shared/1.bias@scales", "__metadata__", "/"]
                )
            )
        ] = value[key]
    return value


@st.composite
def mutated(draw: Any) -> bytes:
    """Return a message whose headers or payload were changed, with a correct hash."""
    content = draw(st.sampled_from(MESSAGES))[24:]
    length = int.from_bytes(content[:8], "little")
    table, payload = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    for _ in range(draw(st.integers(0, 2))):
        table = edited(draw, table)
    if isinstance(table, dict) and isinstance(metadata := table.get("__metadata__"), dict) and "fedloru" in metadata:
        inner = json.loads(content[8 : 8 + length])["__metadata__"]["fedloru"]
        inner = json.loads(inner)
        for _ in range(draw(st.integers(0, 2))):
            inner = edited(draw, inner)
        metadata["fedloru"] = json.dumps(inner)
    for _ in range(draw(st.integers(0, 2))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.sampled_from([0, 0x7F, 0x80, 0xFF]))
    head = json.dumps(table).encode()
    content = len(head).to_bytes(8, "little") + head + bytes(payload)
    return b"fedloru\x02" + hashlib.blake2b(content, digest_size=16).digest() + content


def accepted(data: bytes) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """Return the sections that any of the three functions accepts."""
    found = []
    for decode in (
        lambda: list(decode_up(data, SPEC, DOWN, round=4, version=1)[1]._asdict().items()),
        lambda: list(decode_down(data, SPEC)[1]._asdict().items())[:2],
        lambda: [(f"increment {version}", factors) for version, factors in decode_sync(data, SPEC)[1].increments],
        lambda: [("base", decode_sync(data, SPEC)[1].base)],
    ):
        try:
            found += decode()
        except WireError as error:
            assert len(str(error)) < 900
    return found


def check_accepted(data: bytes) -> None:
    for name, tensors in accepted(data):
        assert all(t.isfinite().all() for t in tensors.values()), name
        known = STATE.shared | STATE.base | UP.aux
        assert tensors.keys() <= known.keys(), name
        if not name.startswith("increment"):
            assert all((t.shape, t.dtype) == (known[key].shape, known[key].dtype) for key, t in tensors.items()), name


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_mutated_messages_are_refused_or_as_expected(data: bytes) -> None:
    check_accepted(data)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_many_mutated_messages_are_refused_or_as_expected(data: bytes) -> None:
    check_accepted(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MESSAGES), st.data())
def test_damage_of_any_kind_is_detected(message: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(message) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "delete", "repeat"]))
    before, after = message[:position], message[position:]
    damaged = {
        "flip": before + bytes([after[0] ^ (1 << data.draw(st.integers(0, 7)))]) + after[1:],
        "cut": before,
        "insert": before + data.draw(st.binary(min_size=1, max_size=9)) + after,
        "delete": before + after[data.draw(st.integers(1, 9)) :],
        "repeat": message + after,
    }[kind]
    with pytest.raises(FedloruError):
        for decode in (lambda: decode_up(damaged, SPEC, DOWN, round=4, version=1), lambda: decode_down(damaged, SPEC)):
            decode()
