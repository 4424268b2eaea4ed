"""Models with unusual forward passes: engines agree, and evaluation computes the same function as training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import methods
from fedloru import net as nets
from fedloru.data import Examples
from fedloru.evaluate import evaluate
from fedloru.method import Phase, Up
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.run.diagnostics import UpdateStatistics
from fedloru.tree import Params
from tests.engine.cohort import Cohort, built, close, fedavg, vectors

PLAIN = Recipe(lr=0.1, momentum=0.0, clip=0, batch_size=4)


class Force(nn.Module):
    """A model that uses the gradient of its output with respect to its input."""

    def __init__(self, create_graph: bool) -> None:
        super().__init__()
        self.hidden, self.out, self.create_graph = nn.Linear(12, 12), nn.Linear(24, 3), create_graph

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        with torch.enable_grad():
            y = torch.tanh(self.hidden(x))
            (force,) = torch.autograd.grad(y.sum(), x, create_graph=self.create_graph, retain_graph=True)
        return self.out(torch.cat([y, force], -1))


class Remembers(nn.Module):
    """A model that fills a buffer in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.register_buffer("twice", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.twice is None:
            self.twice = self.layer.weight * 2
        return self.layer(x) + F.linear(x, self.twice)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "the gradient of the input": lambda: Force(create_graph=False),
    "the gradient of the input, differentiated": lambda: Force(create_graph=True),
    "a buffer that is None": Remembers,
    "a computed weight": lambda: nn.utils.weight_norm(nn.Linear(12, 3)),
}


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_engines_agree(model: str, batch_size: int) -> None:
    cohort = fedavg(MODELS[model], vectors(12), PLAIN._replace(batch_size=batch_size))
    assert close(cohort.rounds("sequential"), cohort.rounds("auto", chunk=3))


def test_a_phase_trains_only_its_keys() -> None:
    def biases(net: Net, train: Params) -> tuple[Phase, ...]:
        return (Phase(frozenset(key for key in train if key.endswith("bias"))),)

    net = built(lambda: nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3)))
    cohort = Cohort(net, methods.fedavg()._replace(phases=biases), vectors(12), PLAIN)
    fused = cohort.rounds("fused", chunk=3)
    assert close(cohort.rounds("sequential"), fused)
    assert torch.equal(fused.shared["0.weight"], net.params["0.weight"])


class Reads(nn.Module):
    """A model that applies a layer, and reads its weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(F.linear(torch.tanh(self.hidden(x)), self.hidden.weight)))


class Strided(nn.Module):
    """A model that reads the memory of a convolution's outputs in a fixed order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).as_strided((len(x), 16 * 64), (16 * 64, 1)))


def examples(*shape: int, dtype: torch.dtype = torch.float32) -> Examples:
    g = torch.Generator().manual_seed(0)
    return {"x": torch.randn(300, *shape, generator=g, dtype=dtype), "y": torch.randint(0, 3, (300,), generator=g)}


@pytest.mark.parametrize(
    ("make", "data", "dtype"),
    [(Reads, examples(64, dtype=torch.float64), torch.float64), (Strided, examples(3, 8, 8), torch.float32)],
    ids=["reads a weight", "reads memory"],
)
def test_evaluation_computes_what_training_does(
    make: Callable[[], nn.Module], data: Examples, dtype: torch.dtype
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nets.attach(make().to(dtype), targets=["*"], rank=4)
    tensors = {key: value.detach() + 0.05 for key, value in net.model.named_parameters()}
    with nets.mode(net, False), torch.no_grad():
        expected = float(nets.losses(net, tensors, data).mean())
    assert evaluate(net, tensors, data).loss == pytest.approx(expected, rel=1e-6)


def test_updates_without_common_tensors_have_no_cosine() -> None:
    cohort = fedavg(lambda: nn.Linear(6, 3), vectors(), PLAIN)
    down = cohort.method.down(cohort.net, cohort.method.init(cohort.net, 0), ())
    statistics = UpdateStatistics(cohort.net)
    statistics.add(down._replace(shared={}), [Up(down.shared)] * 2, [1.0, 1.0])
    assert statistics.cosine() is None
