"""What is said about a model whose figures need a grain of salt, and which model is refused."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import net as nets
from fedloru.analysis.cautions import cautions
from fedloru.analysis.objective import objective
from fedloru.errors import ModelError
from tests.analysis.nets import build, conv, data, mlp, trained_norm


class Own(nn.Module):
    """Has its kink in a function, not in a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x)


def said(make: nn.Module) -> str:
    net = nets.make(make.double())
    return " ".join(cautions(objective(net, net.params | net.buffers, data())))


def test_a_smooth_model_needs_no_caution() -> None:
    assert said(build(mlp)) == ""


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (mlp(nn.ReLU), "kinks (relu)"),
        (conv(nn.ReLU(inplace=True)), "kinks (max_pool2d, relu)"),
        (nn.Sequential(mlp(), Own()), "kinks (leaky_relu)"),
        (nn.Sequential(mlp(), nn.Dropout(0.1)), "Dropout is switched off"),
        (trained_norm(), "BatchNorm normalises by running statistics"),
    ],
)
def test_a_caution(model: nn.Module, told: str) -> None:
    assert told in said(model)


def test_dropout_that_drops_nothing_needs_none() -> None:
    assert said(nn.Sequential(mlp(), nn.Dropout(0.0))) == ""


@pytest.mark.parametrize(
    ("norm", "told"),
    [
        (nn.BatchNorm2d(4), "1 is a BatchNorm whose statistics are untrained"),
        (nn.BatchNorm2d(4, track_running_stats=False), "1 is a BatchNorm without running statistics"),
    ],
)
def test_batch_norm_that_evaluates_another_model_is_refused(norm: nn.Module, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        said(conv(norm))


class Training(nn.BatchNorm2d):
    """Stays in training mode."""

    def train(self, mode: bool = True) -> Training:
        return super().train()


class Centred(nn.Module):
    """Has its batch in a function, not in a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


@pytest.mark.parametrize("between", [Training(4), Centred()])
def test_examples_that_change_each_other_are_refused(between: nn.Module) -> None:
    if isinstance(between, Training):
        assert between.running_mean is not None
        between.running_mean.fill_(0.5)
    with pytest.raises(ModelError, match="the loss of an example changes with the others in its batch"):
        said(conv(between))
