"""Local optimizers of yours: pure functions of a tensor, its gradient and what the optimizer keeps for it.

::

    def momentum(value, gradient, state, lr, step):
        velocity = 0.9 * state.get("velocity", 0) + gradient
        return value - lr * velocity, {"velocity": velocity}

``state`` is {} at the first step of a round. The fused engine maps the function over clients with ``torch.func.vmap``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fedloru.errors import ModelError, sentence, traced
from fedloru.recipe import OPTIMIZERS, Recipe
from fedloru.settings import is_reference, short
from fedloru.tree import Params

Step = Callable[[Tensor, Tensor, Params, float, int], tuple[Tensor, Params]]
"""A function of (value, gradient, state, lr, step), with steps from 1, that returns the new value and state."""


def find(recipe: Recipe) -> Step | None:
    """Return the optimizer of a ``python:`` name, or None if the optimizer is a built-in one.

    Raises:
        ConfigError: the reference leads nowhere.
    """
    return _checked(recipe.optimizer, OPTIMIZERS.find(recipe.optimizer)) if is_reference(recipe.optimizer) else None


def _checked(name: str, step: Step) -> Step:
    """Return ``step`` with a check of what it returns."""

    def checked(value: Tensor, gradient: Tensor, state: Params, lr: float, number: int) -> tuple[Tensor, Params]:
        returned: Any = step(value, gradient, dict(state), lr, number)
        if problem := _problem(returned, value):
            raise ModelError(f"the optimizer {short(name)} returned {problem}: return (new value, new state)")
        return returned[0], dict(returned[1])

    return checked


def _problem(returned: Any, value: Tensor) -> str | None:
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[0], Tensor):
        return f"a {type(returned).__name__}, expected a pair of a tensor and a dict"
    new, state = returned
    if new.shape != value.shape or new.dtype != value.dtype:
        return f"a value of {new.dtype} and shape {tuple(new.shape)} for one of {value.dtype}, {tuple(value.shape)}"
    if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()):
        return "a state that is not a dict of tensors"
    return None


class Own(torch.optim.Optimizer):
    """An optimizer of yours as one of torch."""

    def __init__(self, leaves: list[Tensor], step: Step, lr: float) -> None:
        super().__init__(leaves, {"lr": lr})
        self._step, self._count = step, 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is used
        """Update all tensors with their gradients."""
        self._count += 1
        for group in self.param_groups:
            for leaf in group["params"]:
                value, self.state[leaf] = self._step(leaf, leaf.grad, self.state[leaf], group["lr"], self._count)
                leaf.copy_(value)


def stacked(
    step: Step, value: Tensor, gradient: Tensor, state: Params, lr: float, number: int
) -> tuple[Tensor, Params]:
    """Return the new values and states of m clients, (m, *shape)."""

    def one(value: Tensor, gradient: Tensor, state: Params) -> tuple[Tensor, Params]:
        return step(value, gradient, state, lr, number)

    return torch.func.vmap(one)(value, gradient, state)


@torch.no_grad()
def problem(recipe: Recipe) -> str | None:
    """Return why the optimizer of ``recipe`` cannot train the clients of a chunk together, or None if it can.

    It takes two steps with two clients, together and one by one.
    """
    if (step := find(recipe)) is None:
        return None
    generator = torch.Generator().manual_seed(0)
    values, *gradients = torch.randn(3, 2, 4, 3, generator=generator, dtype=torch.float64)
    try:
        together, states = values, dict[str, Tensor]()
        for number, gradient in enumerate(gradients, start=1):
            together, states = stacked(step, together, gradient, states, recipe.rate, number)
        for client, value in enumerate(values):
            state = dict[str, Tensor]()
            for number, gradient in enumerate(gradients, start=1):
                value, state = step(value, gradient[client], state, recipe.rate, number)
            if not torch.allclose(value, together[client], rtol=1e-9, atol=1e-12):
                return f"the optimizer {short(recipe.optimizer)} computes something else for several clients at once"
    except Exception as error:  # user code may raise anything
        return f"the optimizer {short(recipe.optimizer)} does not run under torch.func.vmap: {sentence(error)}"
    return None


@torch.no_grad()
def try_out(recipe: Recipe) -> None:
    """Take two steps with the optimizer of ``recipe`` on a small tensor.

    Raises:
        ModelError: it fails, returns something else than a new value and a state, or values that are not finite.
        ConfigError: the reference leads nowhere.
    """
    if (step := find(recipe)) is None:
        return
    value, state = torch.linspace(-1, 1, 6).view(2, 3), dict[str, Tensor]()
    try:
        for number in (1, 2):
            value, state = step(value, value.clone(), state, recipe.rate, number)
    except ModelError:
        raise
    except Exception as error:  # user code may raise anything
        raise ModelError(f"{recipe.optimizer} failed: {traced(error)}; fix it") from error
    if not math.isfinite(float(value.sum())):
        raise ModelError(f"{recipe.optimizer} returned values that are not finite after two steps: fix it")
