"""Activation checkpointing: layers that are computed again in the backward pass have the same gradients."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fedloru import methods
from fedloru.engine import choose
from fedloru.method import Method
from tests.engine.cohort import Cohort, built, close, sequences, vectors


class Block(nn.Module):
    """Two linear layers and dropout, checkpointed with ``use_reentrant=reentrant``, or not at all if it is None."""

    def __init__(self, width: int, reentrant: bool | None) -> None:
        super().__init__()
        self.up, self.down, self.drop = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Dropout(0.3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None or not self.training:
            return self.inside(x)
        return checkpoint(self.inside, x, use_reentrant=self.reentrant)

    def inside(self, x: Tensor) -> Tensor:
        return x + self.down(self.drop(torch.tanh(self.up(x))))


class Transformer(Block):
    """Attention with two heads, followed by the two linear layers."""

    def __init__(self, width: int, reentrant: bool | None) -> None:
        super().__init__(width, reentrant)
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)

    def inside(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm(x)).unflatten(-1, (2, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(*heads.chunk(3, -1)).transpose(1, 2).flatten(2)
        return super().inside(x + F.dropout(mixed, 0.2, self.training))


class Mean(nn.Module):
    """The mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def mlp(reentrant: bool | None) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), Block(5, reentrant), nn.Tanh(), Block(5, reentrant), nn.Linear(5, 3))


def transformer(reentrant: bool | None) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), Transformer(8, reentrant), Transformer(8, reentrant), Mean(), nn.Linear(8, 3))


MODELS = {"mlp": (mlp, vectors), "transformer": (transformer, sequences)}
METHODS = {
    "every weight": methods.fedavg,
    "factors": lambda: methods.fedloru(recipe="paper", tau=1, init="both"),
    "composed weights": methods.fedpara,
    "a penalty": lambda: methods.prox(methods.fedlora(), mu=0.5),
}


def cohort(model: str, method: Method, reentrant: bool | None) -> Cohort:
    make, data = MODELS[model]
    settings = {"rank": 2, "alpha": 3.0, "dropout": 0.2} if method.traits.low_rank else {}
    return Cohort(built(lambda: make(reentrant), **settings), method, data())


@pytest.mark.parametrize(("engine", "reentrant"), [("sequential", True), ("sequential", False), ("fused", False)])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_checkpoints_change_no_gradient(model: str, method: str, engine: str, reentrant: bool) -> None:
    made = METHODS[method]()
    plain, checkpointed = cohort(model, made, None), cohort(model, made, reentrant)
    assert close(plain.rounds("sequential"), checkpointed.rounds(engine), 1e-12)


def test_checkpointed_layers_are_folded() -> None:
    made = cohort("transformer", methods.fedloru(recipe="paper"), False)
    chosen = choose("fused", made.net, made.method, made.method.init(made.net, 3), made.data, made.recipe)
    assert chosen.reason.endswith("by fold")


def test_reentrant_checkpoints_use_the_sequential_engine(caplog: pytest.LogCaptureFixture) -> None:
    """The fused engine calls ``torch.autograd.grad``, which reentrant checkpoints do not support."""
    made = cohort("transformer", methods.fedloru(recipe="paper"), True)
    with caplog.at_level(logging.INFO, "fedloru"):
        chosen = choose("auto", made.net, made.method, made.method.init(made.net, 3), made.data, made.recipe)
    (message,) = [record.getMessage() for record in caplog.records]
    assert chosen.name == "sequential" and "use_reentrant=True" in message and "one after another" in message
