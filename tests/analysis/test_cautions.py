"""Which caveats a model gets, and which models are rejected."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import net as nets
from fedloru.analysis.cautions import cautions
from fedloru.analysis.objective import objective
from fedloru.errors import ModelError
from tests.analysis.nets import build, conv, data, mlp, trained_norm


class FunctionalKink(nn.Module):
    """Has a kink in a function call rather than in a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x)


def notes(model: nn.Module) -> str:
    net = nets.make(model.double())
    return " ".join(cautions(objective(net, net.params | net.buffers, data())))


def test_a_smooth_model_needs_no_caution() -> None:
    assert notes(build(mlp)) == ""


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (mlp(nn.ReLU), "piecewise smooth (relu)"),
        (conv(nn.ReLU(inplace=True)), "piecewise smooth (max_pool2d, relu)"),
        (nn.Sequential(mlp(), FunctionalKink()), "piecewise smooth (leaky_relu)"),
        (nn.Sequential(mlp(), nn.Dropout(0.1)), "Dropout is disabled"),
        (trained_norm(), "BatchNorm uses running statistics"),
    ],
)
def test_a_caution(model: nn.Module, expected: str) -> None:
    assert expected in notes(model)


def test_dropout_with_p_0_needs_no_caution() -> None:
    assert notes(nn.Sequential(mlp(), nn.Dropout(0.0))) == ""


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.BatchNorm2d(4), "1 is a BatchNorm layer with untrained statistics"),
        (nn.BatchNorm2d(4, track_running_stats=False), "1 is a BatchNorm layer without running statistics"),
    ],
)
def test_batch_norm_without_trained_statistics_is_rejected(norm: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        notes(conv(norm))


class AlwaysTraining(nn.BatchNorm2d):
    """Stays in training mode."""

    def train(self, mode: bool = True) -> AlwaysTraining:
        return super().train()


class Centered(nn.Module):
    """Uses batch statistics in a function call rather than in a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


@pytest.mark.parametrize("between", [AlwaysTraining(4), Centered()])
def test_examples_that_affect_each_other_are_rejected(between: nn.Module) -> None:
    if isinstance(between, AlwaysTraining):
        assert between.running_mean is not None
        between.running_mean.fill_(0.5)
    with pytest.raises(ModelError, match="the loss of an example depends on the other examples in its batch"):
        notes(conv(between))
