"""Low-rank layers compared with torch layers whose dense weight is W + s·BA, including gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fedloru import lowrank
from fedloru.lowrank import LowRankConv2d, LowRankEmbedding, LowRankLinear

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2, "padding": 1},
    "same": {"padding": "same"},
    "same, dilated": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid", "stride": 2},
    "uneven": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
    "pointwise": {"kernel_size": 1, "stride": 2},
    "circular": {"padding": 2, "padding_mode": "circular"},
    "circular, same": {"padding": "same", "padding_mode": "circular"},
    "reflect": {"padding": 1, "padding_mode": "reflect", "stride": 2},
    "replicate": {"padding": (1, 2), "padding_mode": "replicate", "dilation": 2},
    "no bias": {"bias": False},
}


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapted(layer: nn.Module, rank: int, alpha: float, dropout: float = 0.0) -> Any:
    """Return the low-rank version of ``layer``, with nonzero factors."""
    new = lowrank.attach(layer.double(), rank=rank, alpha=alpha, dropout=dropout).model
    with torch.no_grad():
        for seed, factor in enumerate((new.a, new.b)):
            factor.copy_(seeded(*factor.shape, seed=seed + 1))
    return new


def agree(layer: nn.Module, rank: int, alpha: float, x: Tensor) -> None:
    """Compare outputs, and gradients of A, B, bias and input, with those of a dense layer by autograd."""
    plain = copy.deepcopy(layer).double()
    new = adapted(layer, rank, alpha)
    a, b = (factor.detach().clone().requires_grad_() for factor in (new.a, new.b))
    dense = plain.weight.detach() + alpha / rank * (b.flatten(1) @ a.flatten(1)).view_as(plain.weight)
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for _ in range(2)]
    expected, got = functional_call(plain, {"weight": dense}, (inputs[0],)), new(inputs[1])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    pull = seeded(*expected.shape, seed=9)
    (expected * pull).sum().backward()
    (got * pull).sum().backward()
    pairs = [(new.a.grad, a.grad), (new.b.grad, b.grad)]
    if getattr(plain, "bias", None) is not None:
        pairs.append((new.bias.grad, plain.bias.grad))
    if x.is_floating_point():
        pairs.append((inputs[1].grad, inputs[0].grad))
    for got_gradient, expected_gradient in pairs:
        torch.testing.assert_close(got_gradient, expected_gradient, rtol=0, atol=1e-11)
    assert new.weight.grad is None and not new.weight.requires_grad


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_dense(shape: tuple[int, ...], bias: bool) -> None:
    agree(nn.Linear(7, 4, bias), 3, 5.0, seeded(*shape))


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_is_dense(case: str) -> None:
    settings = {"kernel_size": 3, **CONVOLUTIONS[case]}
    agree(nn.Conv2d(3, 5, **settings), 2, 3.0, seeded(2, 3, 8, 7))


@pytest.mark.parametrize("padding", [None, 0, 4, -1])
def test_embedding_is_dense(padding: int | None) -> None:
    """The batch contains tokens 0, 4 and 8 (-1); as padding, they contribute nothing to the gradients."""
    ids = torch.tensor([[0, 4, 8, 3, 3], [8, 1, 0, 4, 2]])
    agree(nn.Embedding(9, 6, padding_idx=padding), 3, 2.0, ids)


def test_a_padding_vector_is_never_trained() -> None:
    layer = adapted(nn.Embedding(9, 6, padding_idx=2), 3, 2.0)
    layer(torch.tensor([2, 2, 5])).square().sum().backward()
    assert not layer.b.grad[2].any() and layer.b.grad[5].any()


@pytest.mark.parametrize("layer", [nn.Linear(5, 4), nn.Conv2d(2, 4, 3), nn.Embedding(6, 4)])
def test_dropout_acts_on_the_rank_space_in_training_only(layer: nn.Module) -> None:
    new = adapted(layer, 2, 3.0, dropout=0.5)
    w, a, b, s = new.weight, new.a, new.b, 1.5
    if isinstance(new, LowRankLinear):
        x, base = seeded(3, 5), lambda x: F.linear(x, w, new.bias)
        down, up = lambda x: F.linear(x, a), lambda h: F.linear(h, b)
    elif isinstance(new, LowRankConv2d):
        x, base = seeded(3, 2, 6, 6), lambda x: F.conv2d(x, w, new.bias)
        down, up = lambda x: F.conv2d(x, a), lambda h: F.conv2d(h, b)
    else:
        assert isinstance(new, LowRankEmbedding)
        x, base = torch.tensor([[0, 5], [3, 3]]), lambda x: w[x]
        down, up = lambda x: b[x], lambda h: h @ a
    with torch.random.fork_rng():
        torch.manual_seed(4)
        got = new.train()(x)
        torch.manual_seed(4)
        mask = (F.dropout(torch.ones_like(down(x)), 0.5) > 0).double()
    assert 0 < mask.mean() < 1
    torch.testing.assert_close(got, base(x) + s * up(2 * mask * down(x)), rtol=0, atol=1e-12)
    torch.testing.assert_close(new.eval()(x), base(x) + s * up(down(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_keep_the_dtype_and_their_factors_are_float32(dtype: torch.dtype) -> None:
    words = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 4), nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2))
    new = lowrank.attach(words.to(dtype), rank=1).model
    kinds = {name: p.dtype for name, p in new.named_parameters()}
    assert {kinds[name] for name in kinds if name.endswith((".a", ".b"))} == {torch.float32}
    assert {kinds[name] for name in kinds if not name.endswith((".a", ".b"))} == {dtype}
    out = new(torch.tensor([1, 2]))
    out.sum().backward()
    assert out.dtype == dtype
    assert all(p.grad.dtype == torch.float32 for name, p in new.named_parameters() if name.endswith(".b"))
    assert lowrank.detach(new)(torch.tensor([1, 2])).dtype == dtype
