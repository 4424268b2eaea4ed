"""Local training in bf16: the engines agree with each other and with float32 within the rounding of bf16."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedloru import methods, models, tree
from fedloru import net as nets
from fedloru.client import train
from fedloru.data import Examples
from fedloru.engine import choose
from fedloru.engine.task import Task, sessions
from fedloru.method import Method, State
from fedloru.net import Net
from fedloru.recipe import Precision, Recipe
from fedloru.wire import Channel
from tests.laws.cases import world

from .cohort import jobs

RECIPE = Recipe(lr=0.05, batch_size=4)


def images(side: int = 8) -> Examples:
    g = torch.Generator().manual_seed(1)
    return {"x": torch.randn(32, 1, side, side, generator=g), "y": torch.randint(0, 4, (32,), generator=g)}


def sequential_of(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(*(layer() for layer in layers))

    return make


def built(name: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: models.build(name, channels=1, size=8, classes=4, seed=0, **settings)


MODELS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "mlp": (built("mlp", hidden=[32]), 0.03),
    "cnn": (built("cnn", width=4), 0.06),
    "resnet, GroupNorm": (built("resnet8", width=8), 0.25),
    "resnet, BatchNorm": (built("resnet8", width=8, norm="batch"), 0.25),
    "LayerNorm": (
        sequential_of(
            nn.Flatten, lambda: nn.Linear(64, 32), lambda: nn.LayerNorm(32), nn.GELU, lambda: nn.Linear(32, 4)
        ),
        0.03,
    ),
    "a layer without a leaf": (
        sequential_of(lambda: nn.ConvTranspose2d(1, 4, 3), nn.Tanh, nn.Flatten, lambda: nn.Linear(400, 4)),
        0.06,
    ),
}
"""Models, and the bound on the relative error of what a round changes."""


def net_of(model: nn.Module, method: Method) -> Net:
    return nets.attach(model, rank=4, targets=["*"]) if method.traits.low_rank else nets.make(model)


def trained(net: Net, method: Method, data: Examples, engine: str, precision: Precision, **settings: Any) -> State:
    """Return the state after a round of four ragged clients."""
    state, recipe = method.init(net, 3), RECIPE._replace(precision=precision)
    chosen = choose(engine, net, method, state, data, recipe, **settings)
    assert chosen.name == engine
    total = chosen.run(Task(state, jobs(), recipe, 3, Channel(net, method.name, "run", "exact"))).total
    return method.server(net, state, total)


def changed(net: Net, start: State, end: State) -> Tensor:
    keys = sorted(start.shared.keys() & end.shared.keys() & (net.trainable | net.factors))
    return torch.cat([(end.shared[key] - start.shared[key]).double().flatten() for key in keys])


@pytest.mark.parametrize(("model", "method"), [*((model, "fedlora") for model in MODELS), ("cnn", "fedavg")])
def test_engines_agree_within_the_rounding_of_bf16(model: str, method: str) -> None:
    make, bound = MODELS[model]
    made, data = methods.METHODS[method](), images()
    net = net_of(make(), made)
    start = made.init(net, 3)
    full, rounded, fused = (
        changed(net, start, trained(net, made, data, engine, precision))
        for engine, precision in (("sequential", "full"), ("sequential", "bf16"), ("fused", "bf16"))
    )
    errors = [float((a - b).norm() / full.norm()) for a, b in ((rounded, full), (fused, full), (fused, rounded))]
    assert max(errors) < bound, errors
    assert min(errors[:2]) > 1e-4, f"nothing was computed in bf16: {errors}"


@pytest.mark.parametrize("path", ["activation", "weight"])
@pytest.mark.parametrize("chunk", [1, 3])
def test_paths_and_chunks_agree_within_the_rounding_of_bf16(path: str, chunk: int) -> None:
    method, data = methods.fedloru(recipe="paper"), images()
    net = net_of(MODELS["cnn"][0](), method)
    start = method.init(net, 3)
    full = changed(net, start, trained(net, method, data, "sequential", "full"))
    fused = changed(net, start, trained(net, method, data, "fused", "bf16", path=path, chunk=chunk))
    assert float((fused - full).norm() / full.norm()) < MODELS["cnn"][1]


@pytest.mark.parametrize(
    ("method", "model"), [*((name, "mlp") for name in methods.METHODS), ("fedloru", "transformer")]
)
def test_every_method_trains_in_bf16(method: str, model: str) -> None:
    cell = world(method, model, torch.float32)
    start, full = cell.method.init(cell.net, 3), cell.rounds(1)
    rounded = cell._replace(recipe=cell.recipe._replace(precision="bf16"))
    keys = [key for key, value in full.shared.items() if key in start.shared and value.shape == start.shared[key].shape]
    trees = {"start": start, "full": full, "sequential": rounded.rounds(1), "fused": rounded.rounds(1, "fused")}
    flat = {name: torch.cat([state.shared[key].double().flatten() for key in keys]) for name, state in trees.items()}
    change = float((flat["full"] - flat["start"]).norm())
    for one, other in (("sequential", "full"), ("fused", "full"), ("fused", "sequential")):
        assert float((flat[one] - flat[other]).norm()) < 0.2 * change


@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_trained_tensors_losses_and_messages_stay_in_float32(engine: str) -> None:
    seen: list[torch.dtype] = []

    def losses(outputs: Tensor, batch: nets.Batch) -> Tensor:
        seen.extend([outputs.dtype, (outputs @ outputs.mT).dtype])
        return nets.cross_entropy(outputs, batch)

    method = methods.fedloru(recipe="paper")
    net = net_of(MODELS["resnet, BatchNorm"][0](), method)._replace(losses=losses)
    end = trained(net, method, images(), engine, "bf16")
    assert {value.dtype for value in (*end.shared.values(), *end.base.values())} == {torch.float32}
    assert set(seen) <= {torch.float32, torch.float64}  # float64 in the probe
    assert not torch.is_autocast_enabled("cpu")


def test_rounding_frozen_weights_once_changes_no_bit() -> None:
    method, data = methods.fedloru(recipe="paper"), images()
    net = net_of(MODELS["cnn"][0](), method)
    state, recipe = method.init(net, 3), RECIPE._replace(precision="bf16")
    task = Task(state, jobs(), recipe, 3, Channel(net, method.name, "run", "exact"))
    [(session, _)] = sessions(net, method, data, task)
    assert {session.base[site.weight].dtype for site in net.sites} == {torch.bfloat16}
    every_step = session._replace(base=state.base)
    for job in jobs():
        assert tree.equal(train(session, job).up.shared, train(every_step, job).up.shared)


def test_weights_that_an_embedding_shares_are_not_rounded() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9, bias=False)
            self.head.weight = self.embed.weight

    net = nets.make(Tied())
    base = nets.lowered(net, net.params, "bf16")
    rounded = {key for key, value in base.items() if value.dtype == torch.bfloat16}
    assert rounded == {"inner.weight", "inner.bias"}
    assert nets.lowered(net, net.params, "full") is net.params


def test_auto_avoids_a_fused_pass_that_fails_in_bf16() -> None:
    make = sequential_of(nn.Flatten, lambda: nn.Linear(64, 8), lambda: nn.PReLU(8), lambda: nn.Linear(8, 4))
    method, data = methods.fedavg(), images()
    net = nets.make(make())
    for precision, folded in (("full", True), ("bf16", False)):
        recipe = RECIPE._replace(precision=precision)
        chosen = choose("auto", net, method, method.init(net, 0), data, recipe)
        assert ("in bf16" not in chosen.reason) is folded, chosen.reason
        total = chosen.run(Task(method.init(net, 0), jobs(), recipe, 3, Channel(net, "fedavg", "run", "exact")))
        assert math.isfinite(total.loss)
