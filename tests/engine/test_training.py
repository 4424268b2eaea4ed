"""Scores of models, the aggregate of a cohort, and what an engine reads from a device."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedloru import methods
from fedloru.client import all_finite, train
from fedloru.engine import Task, choose
from fedloru.evaluate import Score, evaluate, macro_f1, shared_model
from fedloru.footprint import activation_bytes
from fedloru.method import Down
from fedloru.net import classification_metrics
from fedloru.recipe import Recipe, at_round
from fedloru.session import Job, Session
from fedloru.wire import Channel
from tests.engine.cohort import SIZES, Cohort, built, fedavg, jobs, linear, near, vectors


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_found(value: float) -> None:
    tensors = {"x": torch.randn(3, 4), "n": torch.arange(3), "none": torch.empty(3, 0), "y": torch.randn(3, 2, 2)}
    assert all_finite(tensors).tolist() == [True, True, True]
    tensors["y"][1, 0, 1] = value
    assert all_finite(tensors).tolist() == [True, False, True]


class Reads(TorchDispatchMode):
    """Counts the floats and booleans that are read from tensors; on a GPU, each read would synchronize.

    Integers are not counted: they are read from the schedule, which stays on the CPU.
    """

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype != torch.int64:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_reads_from_the_device_do_not_grow_with_the_steps(engine: str) -> None:
    def read(steps: int) -> int:
        recipe = Recipe(lr=0.1, momentum=0.9, batch_size=4, steps=steps, clip=1.0)
        cohort = fedavg(lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)), vectors(), recipe)
        state = cohort.method.init(cohort.net, 3)
        chosen = choose(engine, cohort.net, cohort.method, state, cohort.data, recipe)
        task = Task(state, jobs(), recipe, 3, Channel(cohort.net, "fedavg", "run", "exact"))
        with Reads() as reads:
            chosen.run(task)
        return reads.count

    assert read(3) == read(12) <= 4 * len(jobs())


def test_the_server_averages_weighted_by_examples() -> None:
    """Train each client separately, and average with p_k = n_k / Σ n_j."""
    cohort = Cohort(built(linear, rank=2, alpha=3.0), methods.fedlora(), vectors())
    state = cohort.method.init(cohort.net, 3)
    session = Session(cohort.net, cohort.method, state.base, Down(state.shared), *cohort[2:], 3, 1)
    done = [train(session, job) for job in jobs()]
    shares = [n / sum(SIZES) for n in SIZES]
    mean = {key: sum(p * t.up.shared[key] for p, t in zip(shares, done, strict=True)) for key in state.shared}
    for engine in ("sequential", "fused"):
        outcome = cohort.train(state, engine, jobs())
        assert outcome.total.weight == sum(SIZES)
        assert near(cohort.method.server(cohort.net, state, outcome.total).shared, mean)
        assert outcome.loss == pytest.approx(sum(p * t.loss for p, t in zip(shares, done, strict=True)))


def test_the_loss_of_a_client_is_the_mean_over_the_examples_it_saw() -> None:
    """With a learning rate of 0, this is the loss of the model on them; short batches have less weight."""
    cohort = fedavg(linear, vectors(), Recipe(lr=0.0, batch_size=4, epochs=3))
    rows = jobs()[0].rows
    logits = F.linear(cohort.data["x"][rows], cohort.net.params["weight"], cohort.net.params["bias"])
    expected = float(F.cross_entropy(logits, cohort.data["y"][rows]))
    for engine in ("sequential", "fused"):
        outcome = cohort.train(cohort.method.init(cohort.net, 3), engine, [Job(0, rows)])
        assert outcome.loss == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 5, 7, 32, 1000])
def test_scores_are_those_of_the_plain_model(batch_size: int) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))

    cohort = Cohort(
        built(make, rank=2, alpha=3.0), methods.fedloru(recipe="paper", tau=2), vectors(), Recipe(lr=0.1, batch_size=7)
    )
    state = cohort.rounds("fused", 3)
    module = built(make).model.eval()
    tensors = dict(state.base | state.shared)
    with torch.no_grad():
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for key, value in named.items():
            if key in tensors:
                value.copy_(tensors[key])
        for site in cohort.net.sites:
            named[site.weight].add_(site.scale * tensors[site.b] @ tensors[site.a])
        logits = module(cohort.data["x"])
        right = (logits.argmax(1) == cohort.data["y"]).double().mean()
        loss = F.cross_entropy(logits, cohort.data["y"])
    score = evaluate(cohort.net, shared_model(cohort.net, cohort.method, state), cohort.data, batch_size)
    f1 = f1_score(cohort.data["y"], logits.argmax(1), average="macro")
    assert score == Score(pytest.approx(float(loss)), pytest.approx(float(right)), 32, pytest.approx(f1))
    assert cohort.net.model.training  # restored


def test_macro_f1_omits_classes_that_neither_occur_nor_are_predicted() -> None:
    y, predicted = torch.tensor([0, 0, 1, 3, 3, 3]), torch.tensor([0, 1, 1, 3, 4, 0])
    confusion = classification_metrics(torch.zeros(6), F.one_hot(predicted, 6).double(), y).confusion
    assert confusion is not None and confusion.sum() == 6 and confusion[3, 4] == confusion[0, 0] == 1
    assert macro_f1(confusion) == pytest.approx(f1_score(y, predicted, average="macro"))


def test_learning_rates_over_rounds() -> None:
    constant = Recipe(lr=0.5, schedule="constant")
    assert [at_round(constant, t, 4).lr for t in (1, 4)] == [0.5, 0.5]
    cosine = constant._replace(schedule="cosine")
    assert [at_round(cosine, t, 4).lr for t in (1, 2, 3, 4)] == pytest.approx(
        [0.5, 0.25 * (1 + math.sqrt(0.5)), 0.25, 0.25 * (1 - math.sqrt(0.5))]
    )
    steps = constant._replace(schedule="step", decay_every=2, decay=0.1)
    assert [at_round(steps, t, 9).lr for t in (1, 2, 3, 4, 5)] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])


def test_activation_bytes_are_those_of_the_outputs_of_layers() -> None:
    """Linear 6 → 5, ReLU, linear 5 → 3 in float64: 5 + 5 + 3 values, plus twice the 3 outputs of the model."""
    net = built(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    assert activation_bytes(net, net.params, vectors()) == 8 * (5 + 5 + 3 + 2 * 3)
    assert not any(layer._forward_hooks for layer in net.model.modules())


def test_evaluation_batches_fit_into_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear 6 → 5 reads and writes 88 bytes per example; the scores do not depend on the batch size."""
    data, sizes = vectors(), []
    net, same = (built(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))) for _ in range(2))
    whole = evaluate(same, net.params, data)
    net.model.register_forward_hook(lambda layer, inputs, output: sizes.append(len(output)))
    monkeypatch.setattr("fedloru.footprint.CACHE", 6 * 88 + 87)
    parts = evaluate(net, net.params, data)
    assert sizes == [1, 6, 6, 6, 6, 6, 2]
    assert parts == Score(pytest.approx(whole.loss), whole.accuracy, 32, whole.f1)
