"""Errors in training and evaluation name the client, round and step, or the examples."""

from __future__ import annotations

import inspect
import math
import re

import pytest
import torch
from torch import Tensor, nn

from fedloru import tree
from fedloru.client import local_schedule
from fedloru.errors import ModelError, TrainingError
from fedloru.evaluate import evaluate
from fedloru.recipe import Recipe
from tests.engine.cohort import RECIPE, Cohort, built, fedavg, jobs, linear, vectors


def with_value(client: int, epoch_step: int, value: float) -> Cohort:
    """Return a cohort in which one example of ``client``, first used in local step ``epoch_step``, has ``value``."""
    cohort = fedavg(linear, vectors(), Recipe(lr=0.1, batch_size=2, epochs=1))
    job = jobs()[client]
    row = int(local_schedule(job, cohort.recipe, 3, 1).rows[epoch_step - 1, 0])
    data = tree.clone(cohort.data)
    data["x"][row, 2] = value
    return cohort._replace(data=data)


@pytest.mark.parametrize("engine", ["sequential", "fused"])
@pytest.mark.parametrize(("client", "step", "steps"), [(0, 3, 5), (2, 7, 7), (3, 1, 3)])
def test_a_loss_that_is_not_finite_names_client_round_and_step(engine: str, client: int, step: int, steps: int) -> None:
    cohort = with_value(client, step, math.nan)
    with pytest.raises(TrainingError) as refused:
        cohort.rounds(engine)
    assert (refused.value.client, refused.value.round) == (client, 1)
    message = str(refused.value)
    assert f"client {client}, round 1: the loss became nan at local step {step} of {steps}" in message
    assert "lower the learning rate (now 0.1)" in message


@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_divergence_in_a_later_round_names_that_round(engine: str) -> None:
    cohort = fedavg(linear, vectors(), Recipe(lr=1e200, weight_decay=1.0, batch_size=2))
    state = cohort.method.init(cohort.net, 3)._replace(round=11)
    with pytest.raises(TrainingError, match=r"client \d, round 12: .*now 1e\+200") as refused:
        cohort.train(state, engine, jobs())
    assert refused.value.round == 12


@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_a_last_step_that_diverges_is_an_error(engine: str) -> None:
    """A single step has a finite loss, but its result is not finite."""
    cohort = fedavg(linear, vectors(), Recipe(lr=1e308, batch_size=40, steps=1, weight_decay=1e3))
    with pytest.raises(TrainingError, match="client 0, round 1: the trained tensors are not finite"):
        cohort.rounds(engine)


class Picky(nn.Module):
    """Raises for examples with large values, in the forward or in the backward pass."""

    def __init__(self, backward: bool = False) -> None:
        super().__init__()
        self.fc, self.backward = nn.Linear(6, 3), backward

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        if not self.backward:
            refuse(x)
        elif y.requires_grad:
            y.register_hook(lambda gradient: refuse(x))
        return y


def refuse(x: Tensor) -> None:
    if bool((x > 100).any()):
        raise KeyError("too large")


@pytest.mark.parametrize("engine", ["sequential", "fused"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("client", "step", "steps"), [(2, 7, 7), (3, 1, 3)])
def test_an_error_in_a_step_names_client_round_and_step(
    engine: str, backward: bool, client: int, step: int, steps: int
) -> None:
    cohort = with_value(client, step, 1000.0)
    cohort = cohort._replace(net=built(lambda: Picky(backward)))
    with pytest.raises(TrainingError) as refused:
        cohort.rounds(engine)
    assert (refused.value.client, refused.value.round) == (client, 1)
    where = rf"client {client}, round 1: local step {step} of {steps} on its \d+ examples failed: "
    message = where + r"KeyError: 'too large' \(.*errors.py, line"
    assert re.match(message, str(refused.value))


class Narrow(Picky):
    """Raises inside a torch layer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x[:, :5])


def test_an_error_inside_torch_names_the_line_of_user_code() -> None:
    line = inspect.getsourcelines(Narrow.forward)[1] + 1
    with pytest.raises(
        TrainingError, match=rf"RuntimeError: mat1 and mat2 .* \({re.escape(__file__)}, line {line}\); fix"
    ):
        fedavg(Narrow, vectors()).rounds("sequential")


class Crowded(nn.Module):
    """Raises for batches with more rows than those of the probe."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 6:
            raise RuntimeError("crowded")
        return self.fc(x)


def test_an_error_that_needs_several_clients_names_them_all() -> None:
    cohort = fedavg(Crowded, vectors(), RECIPE)
    together = r"client 0, round 1: clients 0, 1, 2, 3 fail when trained in one batch, but not individually"
    with pytest.raises(TrainingError, match=rf"{together}.*local step 1 of 8 .*failed: RuntimeError: crowded"):
        cohort.rounds("fused", chunk=4)
    assert cohort.rounds("fused", chunk=1).round == 2


@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_out_of_memory_errors_are_passed_on_to_the_run(engine: str) -> None:
    class Large(Picky):
        def forward(self, x: Tensor) -> Tensor:
            if bool((x > 100).any()):
                raise torch.OutOfMemoryError
            return super().forward(x)

    cohort = with_value(2, 7, 1000.0)._replace(net=built(Large))
    with pytest.raises(torch.OutOfMemoryError):
        cohort.rounds(engine)


def test_an_error_in_evaluation_names_the_examples() -> None:
    cohort = fedavg(Crowded, vectors())
    tensors = cohort.net.params | cohort.net.buffers
    with pytest.raises(
        ModelError, match=r"evaluated on test examples 0, 1, 2, 3, 4, 5, 6, .*: RuntimeError: crowded \(.*line \d+\)"
    ):
        evaluate(cohort.net, tensors, cohort.data, 7)
    assert evaluate(cohort.net, tensors, cohort.data, 6).units == 32
