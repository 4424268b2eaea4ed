"""Per-client products and their gradients, compared with a loop over clients; includes the grouped convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.engine.fused import products

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


def same(got: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Compare two results, and their gradients with respect to ``inputs``."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    pull = torch.randn(got.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradients = [torch.autograd.grad((y * pull).sum(), inputs, retain_graph=True) for y in (got, expected)]
    for got_gradient, expected_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(got_gradient, expected_gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("form", [products.conv, products._grouped], ids=["loop", "groups"])
def test_convolutions_of_clients(case: str, form: Any) -> None:
    layer = nn.Conv2d(2, 5, **{"kernel_size": 3, **CONVOLUTIONS[case]}).double()
    x, w = seeded(CLIENTS * EXAMPLES, 2, 7, 8), seeded(CLIENTS, *layer.weight.shape, seed=1)
    settings = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    parts = [F.conv2d(one, w[c], None, **settings) for c, one in enumerate(x.chunk(CLIENTS))]
    got = form(layer, x, w, CLIENTS) if form is products._grouped else form(layer, x, w, CLIENTS, stacked=True)
    same(got, torch.cat(parts), x, w)


def test_pointwise_products_of_clients() -> None:
    h, b = seeded(CLIENTS * EXAMPLES, 2, 3, 5), seeded(CLIENTS, 6, 2, 1, 1, seed=1)
    same(
        products.pointwise(h, b, CLIENTS, stacked=True),
        torch.cat([F.conv2d(one, b[c]) for c, one in enumerate(h.chunk(CLIENTS))]),
        h,
        b,
    )


@pytest.mark.parametrize("shape", [(), (5,), (2, 5)])
def test_linear_products_of_clients(shape: tuple[int, ...]) -> None:
    x, w = seeded(CLIENTS * EXAMPLES, *shape, 6), seeded(CLIENTS, 4, 6, seed=1)
    parts = [F.linear(one, w[c]) for c, one in enumerate(x.chunk(CLIENTS))]
    y = products.linear(x, w, CLIENTS, stacked=True)
    same(y, torch.cat(parts), x, w)
    (gradient,) = torch.autograd.grad(y.sum(), w)
    assert gradient.is_contiguous()  # in the memory layout of the weight


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
