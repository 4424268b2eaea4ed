"""The trial of a model before a run, which does not change the model."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fedloru import data, tree
from fedloru import net as nets
from fedloru.config.trial import try_out
from fedloru.data import Partition
from fedloru.errors import ModelError
from fedloru.recipe import Recipe

DATASET = data.synthetic(40, (6,), 3, seed=0)
CLASSES = len(DATASET.classes)


def parted(*sizes: int) -> Partition:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    rows = tuple(torch.arange(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return Partition("iid", 0, rows, (), {})


def tried(module: nn.Module, recipe: Recipe = Recipe(batch_size=4), partition: Partition = parted(8, 4)) -> None:  # noqa: B008
    try_out(nets.make(module), DATASET, partition, recipe)


class Odd(nn.Module):
    """A linear layer that calls ``odd`` in training, and is an ordinary layer in evaluation."""

    def __init__(self, odd: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.unused, self.odd = nn.Linear(6, CLASSES), nn.Linear(1, 1), odd
        self.unused.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(self.fc, x) if self.training else self.fc(x)


def hooked(fc: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = fc(x)
    y.register_hook(lambda gradient: gradient[:, :1] @ torch.ones(7))
    return y


def missing(fc: nn.Module, x: Tensor) -> Tensor:
    return fc(x) + fc.scale


ODD: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "fails going forward": (
        missing,
        r"cannot be trained on 2 examples of 'synthetic': AttributeError: 'Linear' object has no attribute 'scale' "
        rf"\({re.escape(__file__)}, line \d+\)\. Fix it",
    ),
    "fails going backward": (hooked, r"cannot be trained on 2 examples of 'synthetic': RuntimeError: .*\. Fix it"),
    "two outputs": (lambda fc, x: (fc(x), x), r"cannot be trained on 2 examples of 'synthetic': \w+: "),
    "one loss for all": (lambda fc, x: fc(x).sum(0), r"cannot be trained on 2 examples"),
    "detached": (lambda fc, x: fc(x).detach(), r"no gradient reaches the trained tensors \(fc.bias, fc.weight\)"),
    "not a number": (lambda fc, x: fc(x) / 0, r"untrained model has losses of \[nan, nan\] on 2 examples"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_model_that_cannot_be_trained_is_refused(name: str) -> None:
    odd, message = ODD[name]
    with pytest.raises(ModelError, match=message):
        tried(Odd(odd))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_checkpoint_that_blocks_gradients_is_refused() -> None:
    with pytest.raises(ModelError, match="use_reentrant=True from its first layer on"):
        tried(Odd(lambda fc, x: checkpoint(fc, x, use_reentrant=True)))
    tried(Odd(lambda fc, x: checkpoint(fc, x, use_reentrant=False)))


def test_tensors_without_gradient_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fedloru"):
        tried(nn.Sequential(nn.Linear(6, CLASSES)))
        assert not caplog.records
        partly = Odd(lambda fc, x: fc(x))
        partly.unused.requires_grad_(True)
        tried(partly)
    assert [record.getMessage() for record in caplog.records] == [
        "no gradient reaches unused.bias, unused.weight, so they are not trained"
    ]


def norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES))


@pytest.mark.parametrize(
    ("recipe", "sizes", "client"),
    [
        (Recipe(batch_size=4), (8, 9, 5), 1),
        (Recipe(batch_size=4, steps=3), (8, 6, 9), 2),
        (Recipe(batch_size=32), (8, 1), 1),
        (Recipe(batch_size=1), (8, 2), 0),
    ],
)
def test_a_step_on_one_example_is_tried_if_a_client_takes_one(
    recipe: Recipe, sizes: tuple[int, ...], client: int
) -> None:
    with pytest.raises(
        ModelError,
        match=rf"1 example of .*with which client {client} ends an epoch of its {sizes[client]}: .*client.drop_last",
    ):
        tried(norm(), recipe, parted(*sizes))
    tried(nn.Sequential(nn.Linear(6, CLASSES)), recipe, parted(*sizes))


@pytest.mark.parametrize("recipe", [Recipe(batch_size=3), Recipe(batch_size=4, steps=1), Recipe(batch_size=32)])
def test_a_step_on_one_example_is_not_tried_if_no_client_takes_one(recipe: Recipe) -> None:
    tried(norm(), recipe, parted(9, 5, 8))


def test_two_examples_are_not_tried_if_all_steps_are_on_one() -> None:
    def single(fc: nn.Module, x: Tensor) -> Tensor:
        assert len(x) == 1
        return fc(x)

    tried(Odd(single), Recipe(batch_size=1))
    with pytest.raises(ModelError, match=r"2 examples .*AssertionError"):
        tried(Odd(single))


class Restless(nn.Module):
    """Changes all that a model can: statistics, a counter, a non-persistent buffer, and the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc, self.drop = nn.BatchNorm1d(6), nn.Linear(6, CLASSES), nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.sum(0)
        return self.fc(self.drop(self.norm(x) + torch.randn_like(x)))


def test_a_model_is_not_changed() -> None:
    module = Restless().eval()
    net = nets.make(module)
    objects = [*module.parameters(), *module.buffers()]
    values, handed = [t.detach().clone() for t in objects], tree.clone(net.params | net.buffers)
    place = torch.get_rng_state()
    try_out(net, DATASET, parted(8, 4), Recipe(batch_size=4))
    assert torch.equal(torch.get_rng_state(), place)
    assert all(x is y for x, y in zip(objects, [*module.parameters(), *module.buffers()], strict=True))
    assert all(torch.equal(x, y) for x, y in zip(objects, values, strict=True))
    assert all(x.grad is None and not layer.training for x in module.parameters() for layer in module.modules())
    assert tree.equal(net.params | net.buffers, handed)
    assert not any(value.requires_grad for value in net.params.values())


def test_a_model_that_returns_probabilities_is_named(caplog: pytest.LogCaptureFixture) -> None:
    tried(nn.Sequential(nn.Linear(6, CLASSES), nn.LogSoftmax(1)))
    assert not caplog.messages
    tried(nn.Sequential(nn.Linear(6, CLASSES), nn.Softmax(1)))
    assert "remove the softmax" in caplog.text


def test_integers_that_are_no_tokens_are_refused_with_advice() -> None:
    wide = data.from_tensors(torch.arange(120).view(20, 6), torch.arange(20) % CLASSES)
    with pytest.raises(ModelError, match=r"The model gets x as torch.int64, .* convert it with .*x.float\(\)"):
        try_out(nets.make(nn.Linear(6, CLASSES)), wide, parted(8, 4), Recipe(batch_size=4))
