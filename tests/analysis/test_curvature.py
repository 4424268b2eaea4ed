"""Hessian and GGN against dense matrices, and against closed forms."""

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
def test_a_product_is_that_of_the_dense_matrix(name: str, kind: Kind) -> None:
    o = small(name)
    dense = DENSE[kind](o)
    torch.testing.assert_close(times(o, kind), dense @ direction(len(dense)), rtol=1e-8, atol=1e-9)


def test_least_squares_has_the_moments_of_its_inputs() -> None:
    """L = (1/2n) Σ ‖Wx - y‖² has the Hessian I ⊗ XᵀX/n, and so the GGN."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 5, generator=g, dtype=torch.float64)
    net = nets.make(
        build(lambda: nn.Linear(5, 3, bias=False)),
        losses=lambda outputs, batch: (outputs - batch["t"]).square().sum(-1) / 2,
    )
    o = objective(net, net.params, {"x": x, "t": torch.randn(20, 3, generator=g, dtype=torch.float64)}, batch_size=8)
    for kind in KINDS:
        wanted = torch.kron(torch.eye(3).double(), x.T @ x / 20) @ direction(15)
        torch.testing.assert_close(times(o, kind), wanted)


def test_softmax_regression_is_its_own_ggn() -> None:
    net = nets.make(build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4))))
    o = objective(net, net.params, data())
    torch.testing.assert_close(times(o, "hessian"), times(o, "ggn"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_has_the_block_on_the_diagonal(kind: Kind) -> None:
    o = small("conv")
    block = DENSE[kind](o)[:40, :40]
    torch.testing.assert_close(times(restrict(o, ["0.*"]), kind), block @ direction(40))


def test_a_layer_of_a_net_with_relu_is_its_own_ggn() -> None:
    o = small("mlp, relu")
    for keys in (["1.*"], ["3.*"]):
        layer = restrict(o, keys)
        torch.testing.assert_close(times(layer, "hessian"), times(layer, "ggn"))
    assert not torch.allclose(times(o, "hessian"), times(o, "ggn"), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_change_nothing_and_float32_little(kind: Kind) -> None:
    o = small("conv, batch norm")
    wanted = times(o, kind)
    for batch_size in (1, 4, 99):
        torch.testing.assert_close(times(o._replace(batch_size=batch_size), kind), wanted)
    net = nets.make(o.model)
    single = objective(net, net.params | net.buffers, data(), dtype=torch.float32)
    found = times(single, kind, direction(len(wanted)).float())
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_is_the_weighted_mean_of_its_clients(kind: Kind) -> None:
    o = small("mlp, tanh")
    shards = [slice(0, 3), slice(3, 4), slice(4, 13)]
    clients = [on(o, {key: value[shard] for key, value in o.data.items()}) for shard in shards]
    mean = sum(client.examples / 13 * times(client, kind) for client in clients)
    torch.testing.assert_close(times(o, kind), mean)


class Wrong(torch.autograd.Function):
    """x³, with a forward derivative that is 1 % off."""

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


class Of(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def with_(function: Any) -> Objective:
    net = nets.make(build(lambda: nn.Sequential(mlp(), Of(function))))
    return objective(net, net.params, data())


def test_a_wrong_derivative_of_torch_is_found() -> None:
    with pytest.raises(ModelError, match="torch has a wrong derivative"):
        curvature(with_(Wrong.apply), "hessian")


def test_layer_norm_is_still_wrong_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once torch is right (issues 196699 and 196700), ``smooth`` can do without its own."""
    monkeypatch.setattr("fedloru.analysis.smooth.INSTEAD", {})
    with pytest.raises(ModelError, match="torch has a wrong derivative"):
        curvature(small("conv, layer norm"), "hessian")


class Once(torch.autograd.Function):
    """Knows no forward derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_differentiated_is_told(kind: Kind) -> None:
    with pytest.raises(ModelError, match=rf"the {kind} of this model cannot be formed: \w+: "):
        times(with_(Once.apply), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_that_is_not_finite_is_told(kind: Kind) -> None:
    with pytest.raises(ModelError, match=f"the {kind} times a vector is not finite"):
        times(with_(lambda x: x + (x - x.detach()).square().sqrt()), kind)
