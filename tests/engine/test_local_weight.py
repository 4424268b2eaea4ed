"""Weights that clients train with SGD from one start, without forming them in every step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import methods, tree
from fedloru.engine.fused import chunk
from fedloru.engine.fused.gradients import Outer, Sinks, collected, largest_rank
from fedloru.engine.fused.local_weight import LocalWeight
from fedloru.recipe import Recipe
from fedloru.session import Job
from tests.engine.cohort import Cohort, built, close, fedavg, vectors

WIDTH = 40


class Twice(nn.Module):
    """A model that uses one linear layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(torch.tanh(self.hidden(x)))))


class Tied(nn.Module):
    """A model with two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Unused(nn.Module):
    """A model with a layer that does not contribute to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.other, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.other(x)
        return self.out(torch.tanh(self.hidden(x)))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "a perceptron": perceptron,
    "one without biases": lambda: nn.Sequential(
        nn.Linear(WIDTH, 60, bias=False), nn.Tanh(), nn.Linear(60, WIDTH, bias=False), nn.Tanh(), nn.Linear(WIDTH, 3)
    ),
    "a layer used twice": Twice,
    "a tied weight": Tied,
    "an unused layer": Unused,
    "dropout": lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2), nn.Linear(WIDTH, 3)),
}
RECIPES = {
    "plain": Recipe(lr=0.1, momentum=0.0, clip=0, batch_size=4),
    "clipped": Recipe(lr=0.3, momentum=0.0, clip=0.5, batch_size=4),
    "momentum": Recipe(lr=0.1, momentum=0.9, clip=1.0, batch_size=4),
    "until they are formed": Recipe(lr=0.1, momentum=0.9, clip=1.0, batch_size=4, epochs=8),
    "until they are formed, plain": Recipe(lr=0.1, momentum=0.0, clip=0.0, batch_size=4, epochs=8),
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[LocalWeight]:
    """Record the local weights that are made."""
    found: list[LocalWeight] = []
    make = chunk.LocalWeight

    def recorded(*args: object) -> LocalWeight:
        found.append(make(*args))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(chunk, "LocalWeight", recorded)
    return found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_ragged_clients_equal_the_sequential_engine(recipe: str, model: str, made: list[LocalWeight]) -> None:
    """Clients have 13, 9, 6 and 4 examples: the number that is in training shrinks, and batches are padded."""
    cohort = fedavg(MODELS[model], vectors(WIDTH), RECIPES[recipe])
    expected = cohort.rounds("sequential")
    assert not made
    assert close(expected, cohort.rounds("fused", chunk=3))
    assert bool(made) == (model != "a tied weight")
    formed = [weight for weight in made if weight._is_formed]
    if model == "a perceptron":
        assert bool(formed) == ("formed" in recipe)


def test_the_gradient_reaches_layers_below_and_is_the_same_in_both_forms() -> None:
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    start = draw(6, 5)
    products, forms = LocalWeight(start, 3, 100, 0.1, 0.9), LocalWeight(start, 3, 4, 0.1, 0.9)
    for step in range(4):
        x, pull, factors = draw(3, 2, 5).requires_grad_(), draw(3, 2, 6), draw(3).abs()
        results = []
        for weight in (products, forms):
            sinks: Sinks = {"w": []}
            y = weight.linear(x, sinks["w"])
            dx, anchor = torch.autograd.grad((y * pull).sum(), [x, weight.anchor], allow_unused=True)
            gradient = collected({"w": anchor}, sinks)["w"]
            assert isinstance(gradient, Outer)
            results.append((y, dx, gradient.dense()))
            with torch.no_grad():
                weight.step(gradient.scaled(factors))
        assert forms._is_formed == (step > 1) and not products._is_formed
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    torch.testing.assert_close(products.finish(), forms.finish(), rtol=0, atol=1e-12)


def test_one_step_is_that_of_torch() -> None:
    start, x = torch.randn(6, 5, dtype=torch.float64), torch.randn(1, 2, 5, dtype=torch.float64)
    weight = LocalWeight(start, 1, 10, 0.1, 0.0)
    torch.autograd.grad(weight.linear(x, sink := []).square().sum(), [weight.anchor], allow_unused=True)
    with torch.no_grad():
        weight.step(sink[0])
    leaf = start.clone().requires_grad_()
    F.linear(x[0], leaf).square().sum().backward()
    torch.optim.SGD([leaf], lr=0.1).step()
    torch.testing.assert_close(weight.finish()[0], leaf.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "recipe",
    [Recipe(lr=0.01, optimizer="adam", batch_size=4), Recipe(lr=0.1, weight_decay=0.1, batch_size=4)],
    ids=["adam", "weight decay"],
)
def test_other_optimizers_train_formed_weights(recipe: Recipe, made: list[LocalWeight]) -> None:
    cohort = fedavg(perceptron, vectors(WIDTH), recipe)
    assert close(cohort.rounds("sequential"), cohort.rounds("fused"))
    assert not made


def test_large_batches_train_formed_weights(made: list[LocalWeight]) -> None:
    rows = largest_rank(WIDTH, WIDTH)
    for batch, count in ((rows + 1, 0), (4, 2)):
        cohort = fedavg(perceptron, vectors(WIDTH), Recipe(lr=0.1, batch_size=batch))
        made.clear()
        big = cohort._replace(data=tree.map(lambda t: t.repeat(9, *(1 for _ in t.shape[1:])), cohort.data))
        state = big.method.init(big.net, 3)
        jobs = [Job(k, torch.arange(40 * k, 40 * k + 40)) for k in range(3)]
        big.train(state, "fused", jobs)
        assert len(made) == count


def test_a_method_with_a_penalty_trains_formed_weights(made: list[LocalWeight]) -> None:
    net = built(perceptron)
    cohort = Cohort(net, methods.wrappers.prox(methods.fedavg(), mu=0.1), vectors(WIDTH), RECIPES["momentum"])
    assert close(cohort.rounds("sequential"), cohort.rounds("fused"))
    assert not made
