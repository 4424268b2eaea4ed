"""Buffers that the forward pass changes, in place or by replacement, change only for the client being trained."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from fedloru import net as nets
from fedloru.engine import choose
from fedloru.errors import ModelError, TrainingError
from fedloru.evaluate import evaluate
from tests.engine.cohort import Cohort, fedavg, near, train_plain, vectors


class Mean(nn.Module):
    """Subtracts a running mean of its inputs."""

    def __init__(self, replaced: bool) -> None:
        super().__init__()
        self.fc, self.replaced = nn.Linear(6, 3), replaced
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.replaced:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        elif self.training:
            self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return self.fc(x - self.mean)


class Count(nn.Module):
    """Trains at a temperature that rises with every step; the buffer that counts steps may be non-persistent."""

    def __init__(self, replaced: bool, saved: bool = True) -> None:
        super().__init__()
        self.fc, self.replaced = nn.Linear(6, 3), replaced
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64), persistent=saved)

    def forward(self, x: Tensor) -> Tensor:
        if self.replaced:
            self.steps = self.steps + 1
        else:
            self.steps += 1
        return self.fc(x) / (1 + 0.1 * self.steps)


class Own(Count):
    """Has a counter and a parameter in the same module."""

    def __init__(self) -> None:
        super().__init__(replaced=True)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.scale)


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "statistics, in place": (lambda: Mean(False), "losses of two clients differ"),
    "statistics, replaced": (lambda: Mean(True), "statistics mean of two clients differ"),
    "a counter, in place": (lambda: Count(False), "changes steps"),
    "a counter, replaced": (lambda: Count(True), "changes steps"),
    "a non-persistent counter, in place": (lambda: Count(False, saved=False), "changes steps"),
    "a non-persistent counter, replaced": (lambda: Count(True, saved=False), "changes steps"),
    "a counter next to a parameter": (Own, "changes steps"),
    "inside another module": (lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), Count(True)), "changes 2.steps"),
}


def objects(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def untouched(cohort: Cohort) -> Callable[[], bool]:
    """Return a function that checks that the module has the same tensor objects and values as now."""
    before = list(objects(cohort.net.model))
    values = [tensor.detach().clone() for tensor in before]

    def same() -> bool:
        after = list(objects(cohort.net.model))
        same_objects = len(after) == len(before) and all(x is y for x, y in zip(after, before, strict=True))
        return same_objects and all(torch.equal(x, y) for x, y in zip(after, values, strict=True))

    return same


@pytest.mark.parametrize("name", MODELS)
def test_buffers_of_each_client_change_as_in_plain_training(name: str) -> None:
    cohort = fedavg(MODELS[name][0], vectors())
    same = untouched(cohort)
    ups = cohort.ups("sequential")
    assert same()
    for client, up in ups.items():
        assert near(up.shared, train_plain(cohort, client))


@pytest.mark.parametrize("name", MODELS)
def test_the_fused_engine_rejects_the_model_with_one_message(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Clients in one batch would share the buffers; ``auto`` logs this, and trains clients one after another."""
    make, reason = MODELS[name]
    cohort = fedavg(make, vectors())
    same = untouched(cohort)
    state = cohort.method.init(cohort.net, 3)
    with pytest.raises(ModelError, match=f"fold does not support .*{reason}.*vmap does not support"):
        choose("fused", cohort.net, cohort.method, state, cohort.data, cohort.recipe)
    with caplog.at_level(logging.INFO, "fedloru"):
        chosen = choose("auto", cohort.net, cohort.method, state, cohort.data, cohort.recipe)
    assert chosen.name == "sequential" and same()
    assert [record.getMessage().count("one after another") for record in caplog.records] == [1]


class Failing(Mean):
    """Replaces its buffer and then raises."""

    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        raise KeyError("mask")


def test_the_module_gets_its_own_tensors_back_after_an_error() -> None:
    cohort = fedavg(lambda: Failing(True), vectors())
    same = untouched(cohort)
    with pytest.raises(TrainingError):
        cohort.rounds("sequential")
    assert same()


class Growing(nn.Module):
    """Appends all examples to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x])
        return self.fc(x)


def test_a_buffer_that_changes_its_shape_is_refused() -> None:
    cohort = fedavg(Growing, vectors())
    with pytest.raises(
        TrainingError,
        match=r"on its 9 examples failed: .*shape of the buffer seen from \(1, 6\) to \(5",
    ):
        cohort.rounds("sequential")


def test_a_buffer_keeps_its_dtype() -> None:
    cohort = fedavg(lambda: Mean(True), vectors())
    narrow = {"mean": cohort.net.buffers["mean"].float()}
    for up in cohort._replace(net=cohort.net._replace(buffers=narrow)).ups("sequential").values():
        assert up.shared["mean"].dtype == torch.float32 and bool(up.shared["mean"].any())


def test_evaluation_changes_no_tensors() -> None:
    """This includes models that change their buffers in evaluation mode."""
    cohort = fedavg(lambda: Count(False), vectors())
    tensors = {key: value.clone() for key, value in (cohort.net.params | cohort.net.buffers).items()}
    before, same = copy.deepcopy(tensors), untouched(cohort)
    evaluate(cohort.net, tensors, cohort.data, batch_size=5)
    assert same() and near(tensors, before)


def test_forward_changes_no_tensors() -> None:
    cohort = fedavg(lambda: Mean(True), vectors())
    tensors = cohort.net.params | cohort.net.buffers
    same, mean = untouched(cohort), tensors["mean"]
    nets.forward(cohort.net, tensors, cohort.data)
    assert same() and tensors["mean"] is mean and not mean.any()
