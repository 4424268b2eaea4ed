"""Engine equivalence: the engines agree to 1e-9 in float64, for any chunk size, client order and layer path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedloru import tree
from fedloru.engine import choose
from fedloru.method import State
from fedloru.net import Batch, Loss
from fedloru.net.loss import find
from fedloru.recipe import Recipe
from fedloru.tree import Params
from tests.laws.cases import CLASSES, SIZES, World, world

TOLERANCE = 1e-9


def largest_difference(x: State, y: State) -> float:
    assert x.version == y.version
    pairs = [(x.shared, y.shared), (x.base, y.base), (x.aux, y.aux)]
    assert all(a.keys() == b.keys() for a, b in pairs)
    return max(float((a[key] - b[key]).abs().max()) for a, b in pairs for key in a)


def test_fused_equals_sequential(cell: World) -> None:
    reference = cell.rounds(3)
    assert largest_difference(reference, cell.rounds(3, "fused")) < TOLERANCE


def quartic(outputs: Tensor, batch: Batch) -> Tensor:
    return ((outputs - batch["y"]) ** 4).sum(1)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "bce", quartic])
@pytest.mark.parametrize("method", ["fedavg", "fedloru", "prox"])
def test_fused_equals_sequential_in_a_regression(method: str, loss: str | Loss) -> None:
    cell = world(method, "mlp")
    y = torch.rand(sum(SIZES), CLASSES, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    cell = cell._replace(data=cell.data | {"y": y}, net=cell.net._replace(losses=find(loss)))
    assert largest_difference(cell.rounds(2), cell.rounds(2, "fused")) < TOLERANCE


def lion(value: Tensor, gradient: Tensor, state: Params, lr: float, step: int) -> tuple[Tensor, Params]:
    mean = state.get("mean", torch.zeros_like(value))
    mixed = 0.9 * mean + 0.1 * gradient
    scale = 1 + value.norm() / (1 + step)  # of the whole tensor, and of the number of steps
    return value - lr * scale * torch.tanh(5 * mixed), {"mean": 0.99 * mean + 0.01 * gradient}


@pytest.mark.parametrize("method", ["fedavg", "fedloru", "pfedloru"])
def test_fused_equals_sequential_with_an_optimizer_of_yours(method: str, model: str) -> None:
    cell = world(method, model)
    cell = cell._replace(recipe=Recipe(f"python:{__name__}:lion", lr=0.05, batch_size=4, epochs=2))
    assert largest_difference(cell.rounds(2), cell.rounds(2, "fused")) < TOLERANCE
    assert choose("fused", cell.net, cell.method, cell.method.init(cell.net, 3), cell.data, cell.recipe).name == "fused"


@pytest.mark.parametrize("path", ["activation", "weight"])
def test_both_paths_of_a_low_rank_layer_agree(model: str, path: str) -> None:
    cell = world("fedlora", model)
    assert largest_difference(cell.rounds(2), cell.rounds(2, "fused", path=path)) < TOLERANCE


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunk_size_changes_nothing(model: str, chunk: int) -> None:
    cell = world("fedloru", model)
    assert largest_difference(cell.rounds(3, "fused"), cell.rounds(3, "fused", chunk=chunk)) < TOLERANCE


@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_order_of_clients_changes_nothing(model: str, engine: str) -> None:
    cell = world("fedloru", model)
    rotated = cell.jobs[2:] + cell.jobs[:2]
    assert largest_difference(cell.rounds(2, engine), cell.rounds(2, engine, jobs=rotated)) < TOLERANCE


def test_the_reported_loss_agrees(cell: World) -> None:
    state = cell.method.init(cell.net, 3)
    assert cell.train(state).loss == pytest.approx(cell.train(state, "fused").loss, abs=TOLERANCE)


def test_the_table_is_folded_and_not_vmapped(cell: World) -> None:
    chosen = choose("fused", cell.net, cell.method, cell.method.init(cell.net, 3), cell.data, cell.recipe)
    assert chosen.reason.endswith("by fold")


@pytest.mark.parametrize("method", ["fedavg", "fedloru", "fedloru-paper"])
def test_float32_agrees_to_rounding(method: str, model: str) -> None:
    """The fixed factors of a square matrix span everything, so their signs may differ, but not what is trained."""
    cell = world(method, model, torch.float32)
    states = [cell.rounds(2), cell.rounds(2, "fused")]
    fixed = {key for site in cell.net.sites for key in site.keys} & states[0].base.keys()
    assert largest_difference(*(state._replace(base=tree.omit(state.base, fixed)) for state in states)) < 1e-4
