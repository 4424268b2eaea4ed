"""Messages that were changed or damaged at random are refused, or contain what the receiver expects."""

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
from wire_expected import CODED, DOWN, IN_CODES, INCREMENT, NET, SPEC, STATE, UP, header, reply

from fedloru import tree
from fedloru.errors import FedloruError, WireError
from fedloru.wire import decode_down, decode_sync, decode_up, encode
from fedloru.wire.sections import down_sections

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
