"""The objective is the plain model's loss in evaluation mode, for every batch size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import net as nets
from fedloru import tree
from fedloru.analysis.objective import gradient, loss, objective, on, restrict
from fedloru.errors import DataError, ModelError
from fedloru.evaluate import evaluate, shared_model
from fedloru.methods import fedloru
from tests.analysis.nets import build, data, flat, mlp, small


def test_factors_are_merged_and_dropout_is_off() -> None:
    model = build(lambda: nn.Sequential(mlp(), nn.Dropout(0.5)))
    net = nets.attach(model, rank=2, targets=["0.1"], dropout=0.5)
    method = fedloru(recipe="paper", init="both")
    tensors = shared_model(net, method, method.init(net, 0))
    o = objective(net, tensors, data())
    assert [tuple(p.shape) for p in o.params.values()] == [(9, 16), (9,), (4, 9), (4,)]
    assert loss(o) == pytest.approx(evaluate(net, tensors, data()).loss, rel=1e-12)
    without = tensors | {net.sites[0].a: torch.zeros_like(tensors[net.sites[0].a])}
    assert loss(o) != pytest.approx(loss(objective(net, without, data())))


@pytest.mark.parametrize("name", ["conv, batch norm", "attention"])
def test_the_gradient_equals_that_of_autograd_for_every_batch_size(name: str) -> None:
    for batch_size in (1, 5, 100):
        o = small(name, batch_size)
        model = o.model.requires_grad_(True)
        F.cross_entropy(model(o.data["x"]), o.data["y"]).backward()
        expected = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        model.requires_grad_(False)
        torch.testing.assert_close(gradient(o), expected, rtol=1e-9, atol=1e-12)


def test_the_other_parameters_are_frozen() -> None:
    o = small("conv, batch norm")
    part = restrict(o, ["0.*", "5.bias"])
    assert list(part.params) == ["0.weight", "0.bias", "5.bias"]
    assert part.params.keys() | part.frozen.keys() == o.params.keys() | o.frozen.keys()
    assert torch.equal(flat(gradient(part)), flat(tree.select(gradient(o), part.params)))


def test_model_and_examples_are_cast() -> None:
    o = small("conv")
    net = nets.make(o.model)
    single = objective(net, net.params, data(), dtype=torch.float32)
    assert single.data["x"].dtype == torch.float32 and single.data["y"].dtype == torch.int64
    assert loss(single) == pytest.approx(loss(o), rel=1e-6)
    assert loss(on(single, data(7))) == pytest.approx(loss(on(o, data(7))), rel=1e-6)


def test_no_examples_or_no_parameters_raise() -> None:
    o = small("conv")
    with pytest.raises(DataError, match="no examples"):
        on(o, data(0))
    with pytest.raises(
        ModelError, match=r"no parameter matches 'x\*'; the model has these parameters: 0.weight, 0.bias"
    ):
        restrict(o, ["x*"])


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x)  # in evaluation mode too


def test_a_model_that_is_random_in_evaluation_mode_is_rejected() -> None:
    net = nets.make(build(lambda: nn.Sequential(mlp(), Random())))
    with pytest.raises(ModelError, match="two forward passes in evaluation mode give different losses"):
        objective(net, net.params, data())
