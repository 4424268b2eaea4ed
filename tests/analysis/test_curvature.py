"""Hessian and GGN against dense matrices and closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedloru import net as nets
from fedloru.analysis.curvature import KINDS, Kind, curvature
from fedloru.analysis.objective import Objective, objective, on, restrict
from fedloru.errors import ModelError
from tests.analysis.nets import MODELS, build, data, dense_ggn, dense_hessian, mlp, small

DENSE = {"hessian": dense_hessian, "ggn": dense_ggn}


def direction(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def times(o: Objective, kind: Kind, v: Tensor | None = None) -> Tensor:
    """Return the curvature of ``o`` times v, or times a fixed direction."""
    matrix = curvature(o, kind)
    return matrix.product(direction(matrix.n) if v is None else v)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_product_equals_that_of_the_dense_matrix(name: str, kind: Kind) -> None:
    o = small(name)
    dense = DENSE[kind](o)
    torch.testing.assert_close(times(o, kind), dense @ direction(len(dense)), rtol=1e-8, atol=1e-9)


def test_the_curvature_of_least_squares_is_the_second_moment_of_the_inputs() -> None:
    """Both the Hessian and the GGN of L = (1/2n) Σ ‖Wx - y‖² are I ⊗ XᵀX/n."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 5, generator=g, dtype=torch.float64)
    net = nets.make(
        build(lambda: nn.Linear(5, 3, bias=False)),
        losses=lambda outputs, batch: (outputs - batch["t"]).square().sum(-1) / 2,
    )
    o = objective(net, net.params, {"x": x, "t": torch.randn(20, 3, generator=g, dtype=torch.float64)}, batch_size=8)
    for kind in KINDS:
        expected = torch.kron(torch.eye(3).double(), x.T @ x / 20) @ direction(15)
        torch.testing.assert_close(times(o, kind), expected)


def test_for_softmax_regression_hessian_and_ggn_are_equal() -> None:
    net = nets.make(build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4))))
    o = objective(net, net.params, data())
    torch.testing.assert_close(times(o, "hessian"), times(o, "ggn"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_curvature_of_a_layer_is_its_diagonal_block(kind: Kind) -> None:
    o = small("conv")
    block = DENSE[kind](o)[:40, :40]
    torch.testing.assert_close(times(restrict(o, ["0.*"]), kind), block @ direction(40))


def test_for_a_single_layer_of_a_relu_net_hessian_and_ggn_are_equal() -> None:
    o = small("mlp, relu")
    for keys in (["1.*"], ["3.*"]):
        layer = restrict(o, keys)
        torch.testing.assert_close(times(layer, "hessian"), times(layer, "ggn"))
    assert not torch.allclose(times(o, "hessian"), times(o, "ggn"), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_products_do_not_depend_on_batches_and_little_on_the_dtype(kind: Kind) -> None:
    o = small("conv, batch norm")
    expected = times(o, kind)
    for batch_size in (1, 4, 99):
        torch.testing.assert_close(times(o._replace(batch_size=batch_size), kind), expected)
    net = nets.make(o.model)
    single = objective(net, net.params | net.buffers, data(), dtype=torch.float32)
    actual = times(single, kind, direction(len(expected)).float())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_curvature_of_the_server_is_the_weighted_mean_over_clients(kind: Kind) -> None:
    o = small("mlp, tanh")
    shards = [slice(0, 3), slice(3, 4), slice(4, 13)]
    clients = [on(o, {key: value[shard] for key, value in o.data.items()}) for shard in shards]
    mean = sum(client.examples / 13 * times(client, kind) for client in clients)
    torch.testing.assert_close(times(o, kind), mean)


class WrongJvp(torch.autograd.Function):
    """x³, with a forward-mode derivative that is 1 % off."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3.03 * x**2 * tangent


class Apply(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def ending_in(function: Any) -> Objective:
    """Return the loss of a net whose outputs go through ``function``."""
    net = nets.make(build(lambda: nn.Sequential(mlp(), Apply(function))))
    return objective(net, net.params, data())


def test_a_wrong_derivative_is_detected() -> None:
    with pytest.raises(ModelError, match="torch has a wrong derivative"):
        curvature(ending_in(WrongJvp.apply), "hessian")


def test_rounding_is_not_mistaken_for_a_wrong_derivative() -> None:
    """If the loss is nearly 0, the two ways to compute the product differ in float32 by more than the tolerance."""
    net = nets.make(build(mlp).float())
    confident = net.params | {"3.bias": torch.tensor([15.0, 0.0, 0.0, 0.0])}
    examples = {"x": data()["x"].float(), "y": torch.zeros(13, dtype=torch.int64)}
    curvature(objective(net, confident, examples), "hessian")


def test_layer_norm_is_still_wrong_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails once torch is fixed (issues 196699 and 196700), when ``smooth`` no longer needs its own version."""
    monkeypatch.setattr("fedloru.analysis.smooth.REPLACEMENTS", {})
    with pytest.raises(ModelError, match="torch has a wrong derivative"):
        curvature(small("conv, layer norm"), "hessian")


class NoJvp(torch.autograd.Function):
    """Has no forward-mode derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_cannot_be_differentiated_raises(kind: Kind) -> None:
    with pytest.raises(ModelError, match=rf"the {kind} of this model cannot be computed: \w+: "):
        times(ending_in(NoJvp.apply), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_that_is_not_finite_raises(kind: Kind) -> None:
    with pytest.raises(ModelError, match=f"the product of the {kind} with a vector is not finite"):
        times(ending_in(lambda x: x + (x - x.detach()).square().sqrt()), kind)
