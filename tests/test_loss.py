from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedloru as fl
from fedloru.errors import ModelError
from fedloru.net import compute_losses, metrics
from fedloru.net import loss as losses
from fedloru.net.loss import LOSSES

G = torch.Generator().manual_seed(0)
OUT, Y = torch.randn(6, 2, generator=G), torch.randn(6, 2, generator=G)


@pytest.mark.parametrize(("name", "torch_loss"), [("mse", F.mse_loss), ("l1", F.l1_loss), ("huber", F.huber_loss)])
def test_losses_of_targets(name: str, torch_loss: Any) -> None:
    expected = torch_loss(OUT, Y, reduction="none").mean(1)
    assert torch.equal(LOSSES[name](OUT, {"y": Y}), expected)
    one = torch_loss(OUT[:, 0], Y[:, 0], reduction="none")
    for outputs in (OUT[:, 0], OUT[:, :1]):
        assert torch.equal(LOSSES[name](outputs, {"y": Y[:, 0]}), one), "no broadcast of (b, 1) against (b,)"


def test_binary_cross_entropy() -> None:
    y = (Y[:, 0] > 0).long()
    expected = F.binary_cross_entropy_with_logits(OUT[:, 0], y.float(), reduction="none")
    assert torch.equal(LOSSES["bce"](OUT[:, :1], {"y": y}), expected)


def test_the_default_follows_from_the_labels() -> None:
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    assert torch.equal(losses.by_labels(OUT, {"y": y}), F.cross_entropy(OUT, y, reduction="none"))
    assert torch.equal(losses.by_labels(OUT, {"y": Y}), LOSSES["mse"](OUT, {"y": Y}))
    assert losses.name_of(losses.by_labels) == "" and losses.name_of(losses.mse) == "mse"


def test_outputs_and_targets_must_match() -> None:
    with pytest.raises(ModelError, match=r"returns \(6, 2\) for targets of shape \(6,\): return one output per target"):
        losses.mse(OUT, {"y": Y[:, 0]})


@pytest.mark.parametrize(
    ("loss", "y", "classes", "message"),
    [
        (losses.cross_entropy, Y[:, 0], 0, "needs classes, but y has targets"),
        (losses.mse, torch.tensor([0, 1]), 2, "the loss mse needs targets, but y has classes"),
        (losses.bce, torch.tensor([0, 1]), 3, "for two classes, but there are 3"),
        (losses.bce, torch.tensor([0.0, 2.0]), 0, "from 0 to 1, but y is from 0 to 2"),
        (losses.by_labels, torch.zeros(4, 3), 3, r"y has shape \(4, 3\).*y.argmax\(1\) for one-hot"),
    ],
)
def test_losses_that_do_not_fit_the_labels(loss: Any, y: Tensor, classes: int, message: str) -> None:
    problem = losses.problem(loss, y, classes)
    with pytest.raises(ModelError, match=message):
        raise ModelError(str(problem))
    assert losses.problem(lambda outputs, batch: outputs, y, classes) is None, "a loss of one's own may use anything"


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (lambda o: o.square().mean(), r"shape \(\) for a batch of 3, but one loss per example"),
        (lambda o: o.square(), r"shape \(3, 1\)"),
        (lambda o: o.square().flatten()[:2], r"shape \(2,\) for a batch of 3"),
        (lambda o: 0.5, "is a float, expected a tensor"),
        (lambda o: (o > 0).flatten(), "has torch.bool"),
    ],
)
def test_a_loss_returns_one_number_per_example(each: Any, message: str) -> None:
    net = fl.make(nn.Linear(2, 1), losses=lambda outputs, batch: each(outputs))
    with pytest.raises(ModelError, match=message):
        compute_losses(net, {"x": OUT[:3]})


def test_losses_by_name() -> None:
    assert fl.make(nn.Linear(2, 1), losses="huber").losses is losses.huber
    assert fl.attach(nn.Linear(20, 20), rank=2, targets=["*"], losses="python:fedloru.net.loss:l1").losses is losses.l1
    with pytest.raises(ModelError, match="there is no loss 'hubert'; did you mean 'huber'"):
        fl.make(nn.Linear(2, 1), losses="hubert")
    with pytest.raises(ModelError, match=r"expected a function of \(outputs, batch\)"):
        fl.make(nn.Linear(2, 1), losses=3)  # type: ignore[arg-type]


def test_the_score_of_a_single_output_and_of_targets() -> None:
    net = fl.make(nn.Linear(2, 1), losses="bce")
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    found = metrics(net, OUT[:, :1], {"y": y})
    assert found.right is not None and int(found.right) == int(((OUT[:, 0] > 0).long() == y).sum())
    targets = metrics(net._replace(losses=losses.mse), OUT, {"y": Y})
    assert targets.right is None and targets.confusion is None and int(targets.count) == 6


@pytest.mark.parametrize(
    ("loss", "y", "classes", "outputs"),
    [(None, Y, 0, 2), (None, Y[:, 0], 0, 1), (None, torch.tensor([0, 1]), 2, 2), ("bce", torch.tensor([0, 1]), 2, 1)],
)
def test_the_number_of_outputs(loss: str | None, y: Tensor, classes: int, outputs: int) -> None:
    assert losses.outputs_for(loss, y, classes) == outputs
