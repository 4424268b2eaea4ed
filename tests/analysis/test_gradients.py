"""Client gradients, and their overlap with the Hessian, against autograd and dense Hessians."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedloru import net as nets
from fedloru.analysis.gradients import agreement, check, eigenspace, gradients, seconds
from fedloru.analysis.objective import Objective, losses, objective
from fedloru.analysis.study import Subject, held
from fedloru.errors import ModelError
from fedloru.report.records import ALL
from fedloru.tree import Params
from tests.analysis.nets import CLASSES, build, data, dense_hessian, flat, mlp, small

CLIENTS = [
    Subject("client 0", torch.tensor([0, 5, 7, 11]), 0),
    Subject("client 2", torch.tensor([2]), 2),
    Subject("client 3", torch.tensor([1, 3, 4, 6, 8, 9, 10, 12]), 3),
]
SERVER = Subject("server", torch.arange(13))


def computed(o: Objective) -> list[Params]:
    return list(gradients(o, o.data, CLIENTS))


def test_a_gradient_is_over_the_examples_of_its_client() -> None:
    o = small("mlp, tanh", batch_size=3)
    for client, found in zip(CLIENTS, computed(o), strict=True):
        params = {key: value.clone().requires_grad_() for key, value in o.params.items()}
        mean = losses(o, params, {key: value[client.rows] for key, value in o.data.items()}).mean()
        expected = torch.autograd.grad(mean, list(params.values()))
        for key, value in zip(params, expected, strict=True):
            torch.testing.assert_close(found[key], value)


def test_agreement_is_returned_over_all_weights_and_for_each() -> None:
    found = agreement(computed(small("mlp, tanh")), [2, 1])
    assert list(found) == [ALL, "1.weight", "3.weight"]
    assert [row.rank for row in found[ALL]] == [1, 2, None]


def test_shares_and_overlap_are_those_of_the_dense_hessian() -> None:
    o = small("mlp, tanh")
    found, calls = computed(o), []
    space = eigenspace(o, found, 3, 0, lambda: calls.append(1))
    values, vectors = torch.linalg.eigh(dense_hessian(o))
    chosen = values.abs().argsort(descending=True)[:3]
    assert space["eigenvalues"] == pytest.approx(values[chosen].tolist(), rel=1e-6)
    rows = torch.stack([flat(gradient) for gradient in found])
    inside = rows @ vectors[:, chosen]
    assert space["shares"] == pytest.approx((inside.norm(dim=1) / rows.norm(dim=1)).square().tolist(), rel=1e-5)
    basis = torch.linalg.qr(rows.T).Q
    assert space["overlap"] == pytest.approx(float((basis.T @ vectors[:, chosen]).square().sum()) / 3, rel=1e-5)
    assert space["parameters"] == len(values) and len(calls) >= 20
    assert space["share_by_chance"] == space["overlap_by_chance"] == pytest.approx(3 / len(values))


def test_a_zero_gradient_has_share_0() -> None:
    o = small("mlp, tanh")
    zero = {key: torch.zeros_like(value) for key, value in o.params.items()}
    assert eigenspace(o, [*computed(o), zero], 2, 0, lambda: None)["shares"][-1] == 0


def test_a_diverged_model_is_rejected() -> None:
    net = nets.make(build(mlp))
    tensors = {key: value * torch.nan for key, value in net.params.items()}
    o = objective(net, tensors, data())
    with pytest.raises(ModelError, match=r"the gradient of client 0 is not finite: the model has diverged"):
        computed(o)


def test_there_must_be_fewer_eigenvectors_than_parameters() -> None:
    o = small("mlp, tanh")
    n = sum(value.numel() for value in o.params.values())
    check(o, 2, n - 1)
    with pytest.raises(ModelError, match=f"{n} eigenvectors requested"):
        check(o, 2, n)


def test_the_time_estimate_includes_the_hessian_if_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedloru.analysis.study.seconds", lambda *_: 1000.0)
    o = small("mlp, tanh")
    assert seconds(o, o.data, SERVER, CLIENTS, 0) < 1000 < seconds(o, o.data, SERVER, CLIENTS, 1)


def test_a_subject_holds_its_rows() -> None:
    o = small("mlp, tanh")
    assert torch.equal(held(o, o.data, CLIENTS[0]).data["x"], o.data["x"][CLIENTS[0].rows])


def test_the_gradient_of_a_custom_autograd_function_is_used() -> None:
    class Sign(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sign()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 2 * g

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Sign.apply(x)  # type: ignore[no-any-return,no-untyped-call]

    net = nets.make(nn.Sequential(build(mlp), Layer()))
    o = objective(net, net.params, data())
    last = computed(o)[0]["0.3.bias"]
    p = torch.softmax(o.model(o.data["x"][CLIENTS[0].rows]), 1)
    expected = p - nn.functional.one_hot(o.data["y"][CLIENTS[0].rows], CLASSES)
    torch.testing.assert_close(last, 2 * expected.mean(0))
