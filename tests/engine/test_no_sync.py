"""The local steps never wait for a GPU: they read nothing from the device, and copy nothing to it.

Without a GPU, tensors on the meta device stand for tensors on one: torch refuses to read them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedloru import client as clients
from fedloru import tree
from fedloru.engine.fused import chunk as chunks
from fedloru.engine.fused.engine import forward_tensors
from fedloru.engine.fused.fold import fold
from fedloru.method import Down
from fedloru.recipe import Recipe
from fedloru.session import Session
from tests.laws.cases import world

from .cohort import jobs

MODELS = ("mlp", "cnn-group", "cnn-batch", "transformer")
RECIPES = {
    "sgd": Recipe(lr=0.1, batch_size=4, epochs=2, weight_decay=0.01),
    "adamw": Recipe(optimizer="adamw", batch_size=4),
}


class WaitError(Exception):
    """A step would wait for a GPU."""


class NoWait(TorchDispatchMode):
    """Raise ``WaitError`` if an operation mixes a tensor on the device with one that is not, as a copy does."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = ([t for t in torch.utils._pytree.tree_leaves(v) if isinstance(t, Tensor)] for v in (args, out))
        if len({t.device.type for t in (*given, *(made if given else ()))}) > 1:
            raise WaitError(f"{func} copies between devices")
        return out


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the phases of local training under ``NoWait``, and make up what is read after them; return their names."""
    seen: list[str] = []

    def under(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def phase(*args: Any) -> Any:
            seen.append(name)
            with NoWait():
                return inner(*args)

        return phase

    def read(history: Tensor, finite: Tensor) -> tuple[Any, Any]:
        return torch.zeros(history.shape).tolist(), torch.ones(finite.shape).tolist()

    def upload(t: Tensor, device: torch.device) -> Tensor:
        return torch.empty(t.shape, dtype=t.dtype, device=device)

    monkeypatch.setattr(tree, "upload", upload)  # through pinned memory, which is no wait
    for module in (clients, chunks):
        monkeypatch.setattr(module, "_train_phase", under(module.__name__, module._train_phase))
        monkeypatch.setattr(module, "read", read)
    return seen


def on_device(method: str, model: str, recipe: Recipe) -> tuple[Session, Any]:
    """Return a session on the meta device, and the folded forward pass."""
    cell = world(method, model)
    state = cell.method.init(cell.net, 3)
    stacked = frozenset(forward_tensors(cell.net, cell.method, state))
    moved = {"params": tree.to(cell.net.params, "meta"), "buffers": tree.to(cell.net.buffers, "meta")}
    net = cell.net._replace(model=cell.net.model.to("meta"), **moved)
    down = Down(tree.to(state.shared, "meta"), tree.to(state.aux, "meta"))
    data = tree.to(cell.data, "meta")
    return Session(net, cell.method, tree.to(state.base, "meta"), down, data, recipe, 3, 1), fold(net, stacked)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["fedavg", "fedloru"])
def test_no_step_waits_for_the_device(method: str, model: str, recipe: Recipe, watched: list[str]) -> None:
    session, forward = on_device(method, model, recipe)
    chunks.train_chunk(session, forward, sorted(jobs(), key=lambda job: -len(job.rows)))
    clients.train(session, jobs()[0])
    assert watched == [chunks.__name__, clients.__name__]


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda t: t.sum().item(),
    "bool": lambda t: bool(t.any()),
    "list": lambda t: t.tolist(),
    "nonzero": lambda t: t.nonzero(),
    "mask": lambda t: t[t > 0],
    "to the CPU": lambda t: t.cpu(),
    "from the CPU": lambda t: t + torch.ones(3).to("meta"),
    "index on the CPU": lambda t: t[torch.tensor([0, 1])],
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_waits_are_detected(wait: Callable[[Tensor], object]) -> None:
    with pytest.raises((WaitError, RuntimeError, NotImplementedError)), NoWait():
        wait(torch.ones(3, device="meta"))
