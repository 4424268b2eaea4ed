from __future__ import annotations

import pytest
import torch

from fedloru.errors import WireError
from fedloru.wire import CODECS, pack, payload, width

WIDE = {"d": torch.tensor([1 / 3], dtype=torch.float64), "s": torch.tensor([1 / 3]), "i": torch.tensor([7])}


@pytest.mark.parametrize(
    ("codec", "dtypes"),
    [
        ("exact", (torch.float64, torch.float32)),
        ("fp32", (torch.float32, torch.float32)),
        ("bf16", (torch.bfloat16, torch.bfloat16)),
        ("fp16", (torch.float16, torch.float16)),
    ],
)
def test_wider_floats_are_rounded_to_nearest_and_the_rest_is_unchanged(
    codec: str, dtypes: tuple[torch.dtype, ...]
) -> None:
    packed = pack(WIDE, codec)
    assert (packed["d"].dtype, packed["s"].dtype, packed["i"].dtype) == (*dtypes, torch.int64)
    assert all(torch.equal(packed[key], WIDE[key].to(packed[key].dtype)) for key in WIDE)
    assert payload({"x": WIDE}, codec) == sum(t.dtype.itemsize for t in packed.values())


def test_bf16_rounds_to_nearest_even() -> None:
    """bf16 has 7 mantissa bits: near 1, the spacing is 2⁻⁷. The first two values and their negatives are ties."""
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 1 + 2**-8 - 2**-20])
    rounded = [1.0, 1 + 2**-6, 1 + 2**-7, 1.0]
    assert pack({"w": values}, "bf16")["w"].tolist() == rounded
    assert pack({"w": -values}, "bf16")["w"].tolist() == [-value for value in rounded]


def test_floats_that_are_not_wider_than_the_codec_are_unchanged() -> None:
    half = {"h": torch.ones(2, dtype=torch.float16), "b": torch.ones(2, dtype=torch.bfloat16)}
    for codec in CODECS:
        assert {key: t.dtype for key, t in pack(half, codec).items()} == {key: t.dtype for key, t in half.items()}
    assert width("fp32", torch.float16) == width("bf16", torch.float16) == 2


@pytest.mark.parametrize(
    ("codec", "value", "instead"),
    [("fp16", torch.tensor([1.0, -1e7]), "bf16"), ("fp32", torch.tensor([1e300], dtype=torch.float64), "exact")],
)
def test_a_finite_value_that_overflows_is_rejected(codec: str, value: torch.Tensor, instead: str) -> None:
    with pytest.raises(WireError, match=rf"head\.weight.*1e\+.*use the codec {instead}"):
        pack({"head.weight": value}, codec)


def test_values_that_are_not_finite_are_kept() -> None:
    values = torch.tensor([float("inf"), float("nan"), 1.0])
    assert pack({"w": values}, "fp16")["w"].isinf().tolist() == [True, False, False]
    assert pack({"w": torch.empty(0)}, "fp16")["w"].shape == (0,)


def test_an_unknown_codec_is_rejected() -> None:
    with pytest.raises(WireError, match=r"'int3'.*bf16, exact, fp16, fp32"):
        width("int3", torch.float32)
