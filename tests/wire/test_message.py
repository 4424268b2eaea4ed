from __future__ import annotations

import hashlib
import json

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloru import tree
from fedloru.errors import WireError
from fedloru.wire import CODECS, Header, check, decode, encode, pack, payload

HEADER = Header("up", "fedloru", "ab12", 3, 1, client=4, seed=7, fresh="a", numbers={"weight": 600.0, "loss": 0.1})
SECTIONS = {
    "shared": {"w.a": torch.arange(6.0).reshape(2, 3) / 7, "w.b": torch.ones(2, dtype=torch.float64) / 3},
    "aux": {"n": torch.tensor(5), "mask": torch.tensor([True, False]), "none": torch.empty(0, 3)},
}
MESSAGE = encode(HEADER, SECTIONS, "fp32")


def test_the_layout_of_a_small_message() -> None:
    data = encode(HEADER, {"shared": {"w": torch.tensor([1.0, 2.0])}}, "exact")
    assert data[:8] == b"fedloru\x02" and data[8:24] == hashlib.blake2b(data[24:], digest_size=16).digest()
    length = int.from_bytes(data[24:32], "little")
    header = json.loads(data[32 : 32 + length])
    assert len(data) == 24 + 8 + length + 2 * 4
    assert header["shared/w"] == {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert data[32 + length :] == bytes.fromhex("0000803f 00000040")
    description = json.loads(header["__metadata__"]["fedloru"])
    assert description == {"header": HEADER._asdict(), "narrowed": ""}


def test_the_payload_is_the_number_of_values_times_their_width() -> None:
    assert payload(SECTIONS, "exact") == 6 * 4 + 2 * 8 + 8 + 2
    assert payload(SECTIONS, "bf16") == 6 * 2 + 2 * 2 + 8 + 2
    for codec in CODECS:
        data = encode(HEADER, SECTIONS, codec)
        assert len(data) - payload(SECTIONS, codec) == 32 + int.from_bytes(data[24:32], "little")


@pytest.mark.parametrize("codec", CODECS)
def test_decode_returns_header_keys_dtypes_and_rounded_values(codec: str) -> None:
    header, sections = decode(encode(HEADER, SECTIONS, codec))
    assert header == HEADER
    for name, section in SECTIONS.items():
        rounded = pack(section, codec)
        assert tree.equal(sections[name], {key: rounded[key].to(t.dtype) for key, t in section.items()})


def test_the_bytes_do_not_depend_on_the_order_of_the_keys() -> None:
    reordered = {name: dict(reversed(section.items())) for name, section in SECTIONS.items()}
    assert encode(HEADER, reordered, "fp32") == MESSAGE


def test_views_shared_storage_and_parameters_are_sent_by_value() -> None:
    flat = torch.arange(24.0)
    odd = {
        "transposed": flat.view(4, 6).T,
        "slice": flat[3:9],
        "overlap": flat[5:11],
        "twice": flat,
        "again": flat,
        "expanded": torch.ones(1).expand(5),
        "channels_last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    _, sections = decode(encode(HEADER, {"shared": odd}, "exact"))
    assert tree.equal(sections["shared"], odd)
    assert all(t.is_contiguous() and t.data_ptr() % 64 == 0 for t in sections["shared"].values())


def test_a_message_may_have_no_tensors() -> None:
    assert decode(encode(HEADER, {"shared": {}}, "fp32")) == (HEADER, {})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "sideways"}, r"field kind is 'sideways'; expected one of \('down', 'up', 'sync'\)"),
        ({"round": True}, "round is True; expected an integer from 1"),
        ({"fresh": "b"}, "field fresh is 'b'; expected one of"),
        ({"run": 5}, "run is 5; expected a string"),
        ({"numbers": {"loss": float("nan")}}, "number 'loss' is nan; expected a finite float"),
    ],
)
def test_an_invalid_header_is_not_encoded(change: dict[str, object], problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        encode(HEADER._replace(**change), SECTIONS, "fp32")


def test_a_tensor_that_safetensors_does_not_support_is_rejected() -> None:
    with pytest.raises(WireError, match="cannot be written"):
        encode(HEADER, {"shared": {"z": torch.zeros(2, dtype=torch.complex128)}}, "exact")


def hashed(content: bytes) -> bytes:
    """Return a message with any content after a correct hash, as a hostile sender can make it."""
    return b"fedloru\x02" + hashlib.blake2b(content, digest_size=16).digest() + content


def forged(description: object, key: str = "shared/w") -> bytes:
    tensors = {key: torch.zeros(2, dtype=torch.int32)}
    return hashed(safetensors.torch.save(tensors, {"fedloru": json.dumps(description)}))


GOOD = {"header": HEADER._asdict(), "narrowed": ""}
OLD = safetensors.torch.save({"a/b": torch.zeros(2)}, {"fedloru": json.dumps({"format": 1} | GOOD)})
TWICE = b"{" + b'"a/b":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' * 2 + b'"__metadata__":{"fedloru":"{}"}}'


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "truncated"),
        (MESSAGE[:-1], "truncated"),
        (MESSAGE[:20], "truncated"),
        (MESSAGE[:-1] + bytes([MESSAGE[-1] ^ 1]), "its hash differs"),
        (MESSAGE[:40] + bytes([MESSAGE[40] ^ 1]) + MESSAGE[41:], "its hash differs"),
        (safetensors.torch.save({"a/b": torch.zeros(2)}), "not from fedloru"),
        (hashed(safetensors.torch.save({"a/b": torch.zeros(2)})), "not from fedloru"),
        (hashed(safetensors.torch.save({"a/b": torch.zeros(2)}, {"fedloru": "[" * 100_000})), "damaged"),
        (hashed(safetensors.torch.save({"a/b": torch.zeros(2)}, {"fedloru": "{}", "x": "y"})), "other entries"),
        (hashed(b"\xff" * 8 + b"{}"), "its header has a length of 18446744073709551615 bytes"),
        (hashed(len(TWICE).to_bytes(8, "little") + TWICE), "'a/b' occurs twice"),
        (OLD, "format 1, but this version of fedloru reads format 2"),
        (b"fedloru\x09" + MESSAGE[8:], "format 9, but this version of fedloru reads format 2"),
        (b"fedloru", "its first bytes are not those of a message"),
        (forged([[]]), r"description \[\[\]\]"),
        (forged(GOOD | {"header": [1]}), r"header \[1\]"),
        (forged(GOOD | {"header": {"kind": "up"}}), "fields"),
        (forged(GOOD | {"header": GOOD["header"] | {"client": "4"}}), "client is '4'; expected an integer from -1"),
        (forged(GOOD | {"header": GOOD["header"] | {"version": 1.0}}), "version is 1.0; expected an integer from 0"),
        (forged(GOOD | {"header": GOOD["header"] | {"numbers": {"loss": [[]]}}}), r"loss' is \[\[\]\]"),
        (forged(GOOD | {"header": GOOD["header"] | {"numbers": {"loss": float("inf")}}}), "loss' is inf"),
        (forged(GOOD | {"header": GOOD["header"] | {"numbers": {"weight": 1e308}}}), r"weight' is 1e\+308"),
        *(
            (forged(GOOD | {"header": GOOD["header"] | {name: value}}), f"{name} is {value}; expected an integer")
            for name in ("round", "version", "client", "seed", "rank")
            for value in (-2, 2**64)
        ),
        (
            forged(GOOD | {"header": GOOD["header"] | {"run": "x" * 5000}}),
            "run is 'xxx.*…; expected a string of at most",
        ),
        (forged(GOOD | {"narrowed": "dd"}), "'dd' for 1 tensors"),
        (forged(GOOD | {"narrowed": "q"}), "'q' for 1 tensors"),
        (forged(GOOD | {"narrowed": "d"}), "'shared/w' of torch.int32 cannot have been narrowed from torch.float64"),
        (forged(GOOD, key="w"), "the tensor 'w' does not name a section"),
    ],
)
def test_invalid_bytes_are_rejected_with_a_reason(data: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        decode(data)


def decode_or_wire_error(data: bytes) -> None:
    try:
        decode(data)
    except WireError as error:
        assert "Send the message again" in str(error)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_wire_error(data: bytes) -> None:
    decode_or_wire_error(data)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(MESSAGE) - 1), st.integers(0, 255)), max_size=6), st.integers(0, 40))
def test_damaged_messages_raise_only_wire_error(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(MESSAGE)
    for position, value in changes:
        data[position] = value
    decode_or_wire_error(bytes(data[: len(data) - cut]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([*GOOD, *HEADER._fields]), JSON)
def test_forged_headers_raise_only_wire_error(field: str, value: object) -> None:
    in_header = {field: value} if field in HEADER._fields else {}
    description = GOOD | {"header": GOOD["header"] | in_header} | ({} if in_header else {field: value})
    decode_or_wire_error(forged(description))


SHAPES = st.lists(st.integers(0, 2**64), max_size=4)
TYPES = st.sampled_from(["F32", "F64", "C64", "F4", "F8_E8M0", "F6_E2M3", "BF16", "BOOL", "U64"])


@settings(max_examples=300, deadline=None)
@given(SHAPES, TYPES, st.integers(0, 64), st.sampled_from(["", "s", "d"]))
def test_forged_tensors_raise_only_wire_error(shape: list[int], dtype: str, size: int, narrowed: str) -> None:
    metadata = {"fedloru": json.dumps(GOOD | {"narrowed": narrowed})}
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": metadata, "a/b": entry}).encode()
    decode_or_wire_error(hashed(len(header).to_bytes(8, "little") + header + bytes(size)))


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"kind": "down"}, "kind 'up'.*'down' is expected"),
        ({"method": "flora"}, "method 'fedloru'.*'flora'.*same \\[method\\]"),
        ({"run": "cd34"}, "run 'ab12'.*'cd34'.*base model differs"),
        ({"round": 4}, "round 3, but 4 is expected"),
        ({"version": 2}, "version 1, but 2 is expected.*catch up"),
    ],
)
def test_check_reports_the_field_both_values_and_a_hint(expected: dict[str, object], message: str) -> None:
    shared = {"kind": "up", "method": "fedloru", "run": "ab12"}
    check(HEADER, **shared, round=3, version=1)
    with pytest.raises(WireError, match=message):
        check(HEADER, **(shared | expected))
