"""Per-client products and their gradients, compared with a loop over clients; includes the grouped convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.engine.fused import products
from fedloru.engine.fused.gradients import Outer, Sinks, collected, dense, norms
from fedloru.net import channels_last

CLIENTS, EXAMPLES = 3, 4

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2, "padding": 1},
    "same": {"padding": "same", "dilation": 2},
    "uneven": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 0)},
    "pointwise": {"kernel_size": 1},
}


def seeded(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


def last_channels(x: Tensor) -> Tensor:
    return channels_last({"x": x})["x"]


def same(got: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Compare two results, and their gradients with respect to ``inputs``."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    pull = torch.randn(got.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradients = [torch.autograd.grad((y * pull).sum(), inputs, retain_graph=True) for y in (got, expected)]
    for got_gradient, expected_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(got_gradient, expected_gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_convolutions_of_clients(case: str, last: bool) -> None:
    layer = nn.Conv2d(2, 5, **{"kernel_size": 3, **CONVOLUTIONS[case]}).double()
    x, w, bias = seeded(CLIENTS * EXAMPLES, 2, 7, 8), seeded(CLIENTS, *layer.weight.shape, seed=1), seeded(CLIENTS, 5)
    settings = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    parts = [F.conv2d(one, w[c], bias[c], **settings) for c, one in enumerate(x.chunk(CLIENTS))]
    images = last_channels(x) if last else x
    same(products.conv(layer, images, w, bias, CLIENTS, stacked=True), torch.cat(parts), x, w, bias)
    grouped = products.add_bias(products._grouped(layer, images, w, CLIENTS), bias, CLIENTS, 1, stacked=True)
    same(grouped, torch.cat(parts), x, w, bias)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_keep_the_channels_last(channels: int) -> None:
    layer = nn.Conv2d(channels, 5, 3)
    x, w = torch.randn(CLIENTS * EXAMPLES, channels, 7, 8), torch.randn(CLIENTS, *layer.weight.shape)
    y = products.conv(layer, last_channels(x), w, None, CLIENTS, stacked=True)
    assert y.stride(1) == 1 and y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, products.conv(layer, x, w, None, CLIENTS, stacked=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("stacked", [False, True], ids=["shared", "stacked"])
def test_adding_pointwise_products_of_clients(stacked: bool, last: bool) -> None:
    h, y = seeded(CLIENTS * EXAMPLES, 2, 3, 5), seeded(CLIENTS * EXAMPLES, 6, 3, 5, seed=2)
    b = seeded(*[CLIENTS] * stacked, 6, 2, 1, 1, seed=1)
    parts = [F.conv2d(one, b[c] if stacked else b) for c, one in enumerate(h.chunk(CLIENTS))]
    inputs = [last_channels(t) if last else t for t in (y, h)]
    same(products.add_pointwise(*inputs, b, CLIENTS, 1.7, stacked=stacked), y + 1.7 * torch.cat(parts), y, h, b)


@pytest.mark.parametrize("shape", [(), (5,), (2, 5)])
@pytest.mark.parametrize("clients", [1, CLIENTS])
def test_linear_products_of_clients(clients: int, shape: tuple[int, ...]) -> None:
    x, w = seeded(clients * EXAMPLES, *shape, 6), seeded(clients, 4, 6, seed=1)
    parts = [F.linear(one, w[c]) for c, one in enumerate(x.chunk(clients))]
    y = products.linear(x, w, clients, stacked=True)
    same(y, torch.cat(parts), x, w)
    (gradient,) = torch.autograd.grad(y.sum(), w)
    assert gradient.is_contiguous()  # in the memory layout of the weight


@pytest.mark.parametrize("clients", [1, CLIENTS])
def test_a_gradient_kept_as_a_product(clients: int) -> None:
    x, w = seeded(clients * EXAMPLES, 30), seeded(clients, 20, 30, seed=1)
    pull = seeded(clients * EXAMPLES, 20, seed=2).detach()
    (expected,) = torch.autograd.grad((products.linear(x, w, clients, stacked=True) * pull).sum(), w)
    sinks: Sinks = {"w": []}
    y = products.linear(x, w, clients, stacked=True, sink=sinks["w"])
    found = torch.autograd.grad((y * pull).sum(), [w], allow_unused=True)[0]
    (gradient,) = collected({"w": found}, sinks).values()
    assert found is None and isinstance(gradient, Outer)
    torch.testing.assert_close(dense(gradient), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(norms([gradient]), expected.flatten(1).norm(dim=1), rtol=1e-12, atol=0)


def test_products_of_several_calls_are_one() -> None:
    xs, w = [seeded(CLIENTS * EXAMPLES, 30, seed=c) for c in (0, 2, 3)], seeded(CLIENTS, 20, 30, seed=1)
    sinks: Sinks = {"w": [], "other": []}
    sum(products.linear(x, w, CLIENTS, stacked=True, sink=sinks["w"]).square().sum() for x in xs).backward()
    (expected,) = torch.autograd.grad(sum(products.linear(x, w, CLIENTS, stacked=True).square().sum() for x in xs), w)
    gradients = collected({"w": w.grad, "other": None}, sinks)
    assert gradients.keys() == {"w"} and isinstance(gradients["w"], Outer)
    torch.testing.assert_close(dense(gradients["w"]), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(norms(gradients.values()), expected.flatten(1).norm(dim=1), rtol=1e-12, atol=0)


def test_the_gradient_of_a_weight_that_two_layers_share() -> None:
    """One of them may keep it as a product, if the other does not."""
    x, w = seeded(CLIENTS * EXAMPLES, 30), seeded(CLIENTS, 20, 30, seed=1)
    sinks: Sinks = {"w": []}
    y = products.linear(x, w, CLIENTS, stacked=True, sink=sinks["w"])
    loss = y.sum() + products.linear(x.square(), w, CLIENTS, stacked=True).sum() + w.square().sum()
    gradient = collected({"w": torch.autograd.grad(loss, w)[0]}, sinks)["w"]
    plain = [
        F.linear(t, w[c]).sum() for c in range(CLIENTS) for t in (x.chunk(CLIENTS)[c], x.chunk(CLIENTS)[c].square())
    ]
    (expected,) = torch.autograd.grad(sum(plain) + w.square().sum(), w)
    torch.testing.assert_close(dense(gradient), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_the_gradient_of_a_low_rank_product(with_bias: bool, first: bool) -> None:
    """Checked by finite differences, for a first layer, whose input needs no gradient, and for a later one."""
    x, w = seeded(CLIENTS, EXAMPLES, 6).requires_grad_(not first), seeded(5, 6, seed=1).detach()
    a, b = seeded(CLIENTS, 2, 6, seed=2), seeded(CLIENTS, 5, 2, seed=3)
    bias = seeded(CLIENTS, 5, seed=4) if with_bias else None
    expected = torch.stack([F.linear(x[c], w + 1.7 * b[c] @ a[c]) for c in range(CLIENTS)])
    expected = expected if bias is None else expected + bias[:, None]
    torch.testing.assert_close(products.lowrank_linear(x, w, a, b, bias, 1.7), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(products.lowrank_linear, (x, w, a, b, bias, 1.7))


@pytest.mark.parametrize(("shape", "axis"), [((4,), 1), ((4, 3), 1), ((3, 4), -1), ((2, 3, 4), -1)])
def test_parameters_act_along_their_axis(shape: tuple[int, ...], axis: int) -> None:
    y, p = seeded(CLIENTS * EXAMPLES, *shape), seeded(CLIENTS, 4, seed=1)
    view = [1] * (len(shape) + 1)
    view[axis] = 4
    expected = torch.cat([one * p[c].view(view) for c, one in enumerate(y.chunk(CLIENTS))])
    same(products.fold_op(torch.mul, y, p, CLIENTS, axis), expected, y, p)
