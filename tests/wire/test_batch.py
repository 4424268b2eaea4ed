"""Messages that are encoded together have the bytes that each has alone, and arrive with the same bits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from wire_toy import small_net, start

from fedloru import tree
from fedloru.errors import WireError
from fedloru.method import Down, Up
from fedloru.tree import Params
from fedloru.wire import CODECS, Channel, Codec, decode, encode
from fedloru.wire.batch import Batch, sent
from fedloru.wire.codec import find
from fedloru.wire.header import Header
from fedloru.wire.message import flat, length

BUILT_IN = ("exact", "fp32", "bf16", "fp16")
NUMBERS = ({"weight": 3.0, "loss": 0.1}, {"weight": 12345.0, "loss": 1e-9}, {"loss": -0.0, "weight": 1e9}, {}, {"ä": 1})


def header(client: int) -> Header:
    return Header("up", "toy", "ab12", 7, 2, client, numbers=NUMBERS[client % len(NUMBERS)])


def tensors(client: int) -> dict[str, Params]:
    """Return tensors of many dtypes and shapes, in no particular order, as views and with other strides."""
    g = torch.Generator().manual_seed(client)
    wide = torch.randn(40, 6, generator=g)
    return {
        "shared": {
            "z.weight": wide[:5, :3],
            "a.weight": wide.T,
            "é": torch.randn(7, generator=g, dtype=torch.float64),
            'quo"te\\d': torch.randn(3, generator=g).bfloat16(),
            "half": torch.randn(9, generator=g).half(),
            "scalar": torch.tensor(float(client)),
            "empty": torch.empty(0, 4),
            "mask": torch.rand(5, generator=g) > 0.5,
            "steps": torch.tensor([client, -1]),
            "bytes": torch.arange(3, dtype=torch.uint8),
            "odd": torch.randn(11, generator=g),
        },
        "aux": {"c": torch.randn(2, 2, 2, generator=g), "inf": torch.tensor([float("inf"), float("-inf"), 0.5])},
    }


def same(x: Params, y: Params) -> bool:
    bits = [(t.dtype, t.shape, t.contiguous().flatten().view(torch.uint8).tolist()) for t in (*x.values(), *y.values())]
    return x.keys() == y.keys() and bits[: len(x)] == bits[len(x) :]


@pytest.mark.parametrize("codec", BUILT_IN)
@pytest.mark.parametrize("clients", [1, 5])
def test_a_batch_has_the_bytes_of_each_message(codec: str, clients: int) -> None:
    headers, messages = [header(c) for c in range(clients)], [tensors(c) for c in range(clients)]
    batch = Batch(headers, [flat(sections) for sections in messages], codec)
    arrived = list(sent(headers, messages, codec))
    for client, (one, sections) in enumerate(zip(headers, messages, strict=True)):
        alone = encode(one, sections, codec)
        assert batch.message(client) == alone
        assert batch.lengths[client] == arrived[client].length == length(one, sections, codec) == len(alone)
        for section, received in decode(alone)[1].items():
            assert same(received, dict(sorted(arrived[client].tensors[section].items())))


def test_large_messages_are_encoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    headers, messages = [header(c) for c in range(5)], [tensors(c) for c in range(5)]
    whole = list(sent(headers, messages, "bf16"))
    for room in (1, 2 * tree.nbytes(flat(messages[0])) + 1):
        monkeypatch.setattr("fedloru.wire.batch.ROOM", room)
        for one, other in zip(sent(headers, messages, "bf16"), whole, strict=True):
            assert one.length == other.length and same(flat(one.tensors), flat(other.tensors))


@pytest.mark.parametrize("sections", [{}, {"shared": {}}, {"shared": {}, "aux": {"c": torch.ones(2)}}])
def test_messages_without_tensors(sections: dict[str, Params]) -> None:
    alone = encode(header(0), sections, "fp32")
    assert Batch([header(0)], [flat(sections)], "fp32").message(0) == alone
    assert length(header(0), sections, "fp32") == len(alone)


def test_tensors_arrive_aligned_and_share_no_memory_with_what_was_sent() -> None:
    messages = [tensors(c) for c in range(3)]
    for arrived, sections in zip(sent([header(c) for c in range(3)], messages, "fp32"), messages, strict=True):
        received, own = flat(arrived.tensors), flat(sections)
        assert all(t.data_ptr() % 64 == 0 for t in received.values())
        pointers = {t.untyped_storage().data_ptr() for t in own.values() if t.numel()}
        assert not pointers & {t.untyped_storage().data_ptr() for t in received.values() if t.numel()}


def test_clients_that_send_other_tensors_are_encoded_apart_and_in_order() -> None:
    """As with factors of different ranks."""
    messages: list[dict[str, Params]] = [{"shared": {"a": torch.full((rank, 3), float(rank))}} for rank in (1, 1, 3, 1)]
    arrived = list(sent([header(c) for c in range(4)], messages, "bf16"))
    for client, one in enumerate(arrived):
        assert tree.equal(one.tensors["shared"], messages[client]["shared"])
        assert one.length == len(encode(header(client), messages[client], "bf16"))


@pytest.mark.parametrize("codec", ["fp16", "bf16"])
def test_a_value_that_does_not_fit_is_refused_as_in_one_message(codec: str) -> None:
    messages: list[dict[str, Params]] = [{"shared": {"a": torch.tensor([1.0, big])}} for big in (2.0, 3.4e38)]
    with pytest.raises(WireError) as together:
        list(sent([header(0), header(1)], messages, codec))
    with pytest.raises(WireError) as alone:
        encode(header(1), messages[1], codec)
    assert str(together.value) == str(alone.value) and "shared/a: the value 3.4e+38" in str(alone.value)


@pytest.mark.parametrize("value", [torch.ones(2, dtype=torch.complex128), torch.eye(2).to_sparse()])
def test_tensors_that_the_format_does_not_have_are_refused(value: Tensor) -> None:
    with pytest.raises(WireError, match="cannot be written in the safetensors format"):
        list(sent([header(0)], [{"shared": {"a": value}}], "fp32"))
    with pytest.raises(WireError, match="cannot be written in the safetensors format"):
        length(header(0), {"shared": {"a": value}}, "fp32")


def test_headers_are_checked() -> None:
    for numbers in ({"loss": float("nan")}, {"loss": 1e300}):
        with pytest.raises(WireError, match="expected a finite float"):
            list(sent([header(0)._replace(numbers=numbers)], [tensors(0)], "fp32"))


def random_rounding(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round up or down at random, with the global generator."""
    return (values + torch.rand_like(values) * 2.0**-9 * values.abs()).to(dtype)


def test_a_codec_that_draws_makes_the_draws_of_messages_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS._entries, "drawn", Codec(torch.bfloat16, random_rounding))
    find.cache_clear()
    net, state = small_net(), start(small_net(), seed=5)
    ups = [Up(state.shared, {"c": torch.rand(3)}) for _ in range(3)]

    def received(send: str) -> Sequence[Up]:
        torch.manual_seed(3)
        channel = Channel(net, "toy", "r", "drawn")
        if send == "together":
            return channel.replies(ups, Down({}), [0, 1, 2], 1, 0, [{}] * 3)
        return [
            Up(**decode(encode(Header("up", "toy", "r", 1, 0, c), {"shared": u.shared, "aux": u.aux}, "drawn"))[1])
            for c, u in enumerate(ups)
        ]

    for one, other in zip(received("together"), received("alone"), strict=True):
        assert tree.equal(one.shared, other.shared) and tree.equal(one.aux, other.aux)


def test_no_message_of_a_round_is_hashed_or_encoded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedloru.wire import batch, message

    def refuse(*arguments: object) -> None:
        raise AssertionError("a message was encoded alone")

    for module, name in ((message, "_hash"), (batch, "encode"), (batch, "decode")):
        monkeypatch.setattr(module, name, refuse)
    net, state = small_net(), start(small_net(), seed=5)
    channel = Channel(net, "toy", "r", "bf16")
    assert len(channel.replies([Up(state.shared)] * 4, Down({}), range(4), 1, 0, [{"loss": 1.0}] * 4)) == 4
    assert channel.traffic.total("up")
