"""The loss whose curvature and gradients are studied: the mean over fixed examples, as a function of the parameters.

L(θ) = (1/n) Σ ℓ(f(θ, x_i), y_i) of a plain model, factors merged into its weights, in evaluation mode: dropout is
off and BatchNorm normalises by its running statistics, so that L is one function and its derivatives are its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedloru import net as nets
from fedloru import tree
from fedloru.analysis.smooth import differentiable
from fedloru.data import Examples
from fedloru.data.dataset import size
from fedloru.errors import DataError, ModelError
from fedloru.net import Batch, Net
from fedloru.tree import Params

BATCH = 250
"""Examples a pass: what a second derivative of a small convolutional net keeps of them fits into a gigabyte."""


class Objective(NamedTuple):
    """The mean loss of a plain model over fixed examples, as a function of its parameters.

    ``params`` are differentiated, in the model's order; ``frozen`` is every other tensor of the forward pass.
    ``losses`` and ``inputs`` are those of ``Net``. ``batch_size`` examples go through the model at once; beyond
    rounding, no result depends on it.
    """

    model: nn.Module
    params: Params
    frozen: Params
    losses: Callable[[Any, Batch], Tensor]
    inputs: Callable[[Batch], dict[str, Tensor]]
    data: Examples
    batch_size: int

    @property
    def net(self) -> Net:
        """The plain model as a ``Net`` without sites."""
        return Net(self.model, (), self.params, {}, frozenset(self.params), self.losses, self.inputs)

    @property
    def examples(self) -> int:
        """The number of examples, n."""
        return size(self.data)


def objective(
    net: Net,
    tensors: Params,
    data: Examples,
    *,
    keys: Sequence[str] = ("*",),
    batch_size: int = BATCH,
    dtype: torch.dtype | None = None,
) -> Objective:
    """Return the mean loss over ``data`` of ``net`` with ``tensors``, as a function of the parameters in ``keys``.

    ``keys`` are globs over the parameters of the plain model; ``dtype`` is what model and examples are cast to
    (None: they stay as they are).

    Raises:
        DataError: there are no examples.
        ModelError: no parameter matches, or the model is random in evaluation mode.
    """
    model = nets.load(net, tensors).eval().requires_grad_(False)
    if dtype is not None:
        model = model.to(dtype)
    params = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    whole = Objective(model, params, buffers, net.losses, net.inputs, {}, batch_size)
    return restrict(on(whole, data), keys)


def on(o: Objective, data: Examples) -> Objective:
    """Return the loss of the same model over other examples, cast to its dtype.

    Raises:
        DataError: there are no examples.
        ModelError: the model is random in evaluation mode.
    """
    if not data or not size(data):
        raise DataError("there are no examples, and the mean loss over none is not defined: give one at least")
    dtype = next(iter(o.params.values())).dtype
    cast = tree.map(lambda t: t.to(dtype) if t.is_floating_point() else t, data)
    moved = o._replace(data=cast)
    _check_same_twice(moved)
    return moved


def restrict(o: Objective, keys: Sequence[str]) -> Objective:
    """Return the same loss as a function of the parameters that match the globs ``keys``, the others frozen.

    Raises:
        ModelError: none matches.
    """
    chosen = [name for name in o.params if any(fnmatchcase(name, glob) for glob in keys)]
    if not chosen:
        raise ModelError(f"no parameter matches {', '.join(map(repr, keys))}; there are: {', '.join(o.params)}")
    return o._replace(params=tree.select(o.params, chosen), frozen=tree.omit(o.params, chosen) | o.frozen)


def first(o: Objective, count: int) -> Objective:
    """Return the loss over the first ``count`` examples."""
    return o._replace(data={key: value[:count] for key, value in o.data.items()})


def double(o: Objective) -> Objective:
    """Return the same loss in float64, where the device has it."""
    if next(iter(o.params.values())).device.type == "mps":
        return o
    model = copy.deepcopy(o.model).double()
    own = {**{name: p.detach() for name, p in model.named_parameters()}, **dict(model.named_buffers())}
    data = tree.map(lambda t: t.double() if t.is_floating_point() else t, o.data)
    return o._replace(model=model, params=tree.select(own, o.params), frozen=tree.select(own, o.frozen), data=data)


def batches(o: Objective) -> Iterator[Examples]:
    """Yield the examples in order, ``batch_size`` at a time."""
    for start in range(0, o.examples, o.batch_size):
        yield {key: value[start : start + o.batch_size] for key, value in o.data.items()}


def losses(o: Objective, params: Params, batch: Examples) -> Tensor:
    """Return one loss per example, (b,), with ``params`` in place of the objective's own."""
    with differentiable():
        return nets.losses(o.net, o.frozen | params, batch)


@torch.no_grad()
def loss(o: Objective) -> float:
    """Return the mean loss in nats."""
    return sum(float(losses(o, o.params, batch).sum(dtype=torch.float64)) for batch in batches(o)) / o.examples


def gradient(o: Objective) -> Params:
    """Return the gradient of the mean loss; that of a parameter without effect is 0."""
    total = tree.map(torch.zeros_like, o.params)
    for batch in batches(o):
        params = {key: value.detach().requires_grad_() for key, value in o.params.items()}
        found = torch.autograd.grad(losses(o, params, batch).sum(), list(params.values()), materialize_grads=True)
        total = tree.add(total, dict(zip(params, found, strict=True)))
    return tree.scale(total, 1 / o.examples)


@torch.no_grad()
def _check_same_twice(o: Objective) -> None:
    batch = next(batches(o))
    once, again = (losses(o, o.params, batch) for _ in range(2))
    if not torch.allclose(once, again, rtol=1e-4, equal_nan=True):
        raise ModelError(
            "the model gives other losses when asked again, in evaluation mode: it has no derivatives to study. "
            "Let its random layers depend on self.training, as nn.Dropout does"
        )
