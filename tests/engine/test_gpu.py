"""Engine equivalence on a GPU, including the grouped convolutions that are used there."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from fedloru import client as clients
from fedloru import tree
from fedloru.engine.fused import chunk as chunks
from fedloru.method import State
from fedloru.recipe import Precision
from tests.laws.cases import METHODS, World, world

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
MODELS = ("mlp", "cnn-group", "cnn-batch", "transformer")


def on_gpu(method: str, model: str, dtype: torch.dtype = torch.float64) -> World:
    cell = world(method, model, dtype)
    moved = {"params": tree.to(cell.net.params, "cuda"), "buffers": tree.to(cell.net.buffers, "cuda")}
    net = cell.net._replace(model=cell.net.model.to("cuda"), **moved)
    return cell._replace(net=net, data=tree.to(cell.data, "cuda"))


def furthest(x: State, y: State) -> float:
    assert x.version == y.version
    pairs = [(x.shared, y.shared), (x.base, y.base), (x.aux, y.aux)]
    assert all(a.keys() == b.keys() for a, b in pairs)
    return max(float((a[key] - b[key].to(a[key].device)).abs().max()) for a, b in pairs for key in a)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_fused_equals_sequential_on_a_gpu(method: str, model: str) -> None:
    cell = on_gpu(method, model)
    reference = cell.rounds(2)
    assert {t.device.type for t in reference.shared.values()} == {"cuda"}
    assert furthest(reference, cell.rounds(2, "fused")) < 1e-9


@pytest.mark.parametrize("path", ["activation", "weight"])
@pytest.mark.parametrize("chunk", [1, 3, 4])
@pytest.mark.parametrize("model", MODELS)
def test_chunks_and_paths_agree_on_a_gpu(model: str, chunk: int, path: str) -> None:
    cell = on_gpu("fedloru", model)
    assert furthest(cell.rounds(2), cell.rounds(2, "fused", chunk=chunk, path=path)) < 1e-9


def test_factors_are_drawn_the_same_on_every_device() -> None:
    here, there = world("fedloru", "cnn-group"), on_gpu("fedloru", "cnn-group")
    states = [cell.method.init(cell.net, 3) for cell in (here, there)]
    assert tree.equal(states[0].shared, tree.to(states[1].shared, "cpu"))


def test_a_model_without_dropout_trains_the_same_on_a_cpu() -> None:
    here, there = world("fedloru", "cnn-batch"), on_gpu("fedloru", "cnn-batch")
    for cell in (here, there):
        cell.net.model.drop2.p = 0.0  # masks are drawn by the device's own generator
    assert furthest(here.rounds(2, "fused"), there.rounds(2, "fused")) < 1e-9


@pytest.mark.parametrize("precision", ["full", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_no_local_step_waits_for_the_gpu(model: str, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = on_gpu("fedloru", model, torch.float32 if precision == "bf16" else torch.float64)
    cell = cell._replace(recipe=cell.recipe._replace(precision=precision))
    cell.rounds(1, "fused")  # libraries are initialized
    cell.rounds(1)
    inner = {module: module._train_phase for module in (chunks, clients)}

    def watched(module: ModuleType) -> Callable[..., Tensor]:
        def train_phase(*arguments: Any) -> Tensor:
            torch.cuda.set_sync_debug_mode("error")
            try:
                return inner[module](*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return train_phase

    for module in inner:
        monkeypatch.setattr(module, "_train_phase", watched(module))
    cell.rounds(1, "fused")
    cell.rounds(1)
