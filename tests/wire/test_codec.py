from __future__ import annotations

import pytest
import torch

from fedloru.errors import WireError
from fedloru.wire import CODECS, pack, payload, width

WIDE = {"d": torch.tensor([1 / 3], dtype=torch.float64), "s": torch.tensor([1 / 3]), "i": torch.tensor([7])}


@pytest.mark.parametrize(
    ("codec", "types"),
    [
        ("exact", (torch.float64, torch.float32)),
        ("fp32", (torch.float32, torch.float32)),
        ("bf16", (torch.bfloat16, torch.bfloat16)),
        ("fp16", (torch.float16, torch.float16)),
    ],
)
def test_wider_floats_are_narrowed_to_nearest_and_the_rest_stays(codec: str, types: tuple[torch.dtype, ...]) -> None:
    packed = pack(WIDE, codec)
    assert (packed["d"].dtype, packed["s"].dtype, packed["i"].dtype) == (*types, torch.int64)
    assert all(torch.equal(packed[key], WIDE[key].to(packed[key].dtype)) for key in WIDE)
    assert payload({"x": WIDE}, codec) == sum(t.dtype.itemsize for t in packed.values())


def test_bf16_rounds_to_nearest_even() -> None:
    given = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20])
    assert pack({"w": given}, "bf16")["w"].tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]


def test_narrow_floats_are_never_widened_and_equally_wide_ones_never_swapped() -> None:
    half = {"h": torch.ones(2, dtype=torch.float16), "b": torch.ones(2, dtype=torch.bfloat16)}
    for codec in CODECS:
        assert {key: t.dtype for key, t in pack(half, codec).items()} == {key: t.dtype for key, t in half.items()}
    assert width("fp32", torch.float16) == width("bf16", torch.float16) == 2


@pytest.mark.parametrize(
    ("codec", "value", "instead"),
    [("fp16", torch.tensor([1.0, -1e7]), "bf16"), ("fp32", torch.tensor([1e300], dtype=torch.float64), "exact")],
)
def test_a_finite_value_that_overflows_is_refused_by_name(codec: str, value: torch.Tensor, instead: str) -> None:
    with pytest.raises(WireError, match=rf"head\.weight.*1e\+.*use the codec {instead}"):
        pack({"head.weight": value}, codec)


def test_values_that_were_not_finite_before_stay_as_they_are() -> None:
    given = torch.tensor([float("inf"), float("nan"), 1.0])
    assert pack({"w": given}, "fp16")["w"].isinf().tolist() == [True, False, False]
    assert pack({"w": torch.empty(0)}, "fp16")["w"].shape == (0,)


def test_an_unknown_codec_is_refused_with_the_known_ones() -> None:
    with pytest.raises(WireError, match=r"'int3'.*exact, fp32, bf16, fp16"):
        width("int3", torch.float32)
