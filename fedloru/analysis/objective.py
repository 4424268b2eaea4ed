"""The mean loss over fixed examples as a function of the parameters, for computing gradients and curvature.

L(θ) = (1/n) Σ ℓ(f(θ, x_i), y_i) for a plain model with its factors merged into the weights, in evaluation mode: dropout
is off and BatchNorm uses running statistics, so L is a deterministic function of θ.
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
"""Default batch size: second derivatives of a small convolutional net then need less than a gigabyte."""


class Objective(NamedTuple):
    """The mean loss of a plain model over fixed examples, as a function of its parameters.

    ``params`` are the parameters to differentiate by, in the model's order; ``frozen`` holds all other tensors of the
    forward pass. ``losses`` and ``inputs`` are as in ``Net``. ``batch_size`` examples are processed at once; results
    do not depend on it, up to rounding.
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

    ``keys`` are glob patterns for parameter names of the plain model. The model and the examples are cast to ``dtype``
    (default: no cast).

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
    """Return the loss of the same model over other examples, which are cast to its dtype.

    Raises:
        DataError: there are no examples.
        ModelError: the model is random in evaluation mode.
    """
    if not data or not size(data):
        raise DataError("there are no examples, so the mean loss is undefined: pass at least one example")
    dtype = next(iter(o.params.values())).dtype
    cast = tree.map(lambda t: t.to(dtype) if t.is_floating_point() else t, data)
    replaced = o._replace(data=cast)
    _check_deterministic(replaced)
    return replaced


def restrict(o: Objective, keys: Sequence[str]) -> Objective:
    """Return the same loss as a function of the parameters that match the globs ``keys``; the others are frozen.

    Raises:
        ModelError: no parameter matches.
    """
    chosen = [name for name in o.params if any(fnmatchcase(name, glob) for glob in keys)]
    if not chosen:
        raise ModelError(
            f"no parameter matches {', '.join(map(repr, keys))}; the model has these parameters: {', '.join(o.params)}"
        )
    return o._replace(params=tree.select(o.params, chosen), frozen=tree.omit(o.params, chosen) | o.frozen)


def first(o: Objective, count: int) -> Objective:
    """Return the loss over the first ``count`` examples."""
    return o._replace(data={key: value[:count] for key, value in o.data.items()})


def double(o: Objective) -> Objective:
    """Return the same loss in float64 if the device supports it; MPS does not."""
    if next(iter(o.params.values())).device.type == "mps":
        return o
    model = copy.deepcopy(o.model).double()
    tensors = {**{name: p.detach() for name, p in model.named_parameters()}, **dict(model.named_buffers())}
    params, frozen = tree.select(tensors, o.params), tree.select(tensors, o.frozen)
    data = tree.map(lambda t: t.double() if t.is_floating_point() else t, o.data)
    return o._replace(model=model, params=params, frozen=frozen, data=data)


def batches(o: Objective) -> Iterator[Examples]:
    """Yield the examples in order, ``batch_size`` at a time."""
    for start in range(0, o.examples, o.batch_size):
        yield {key: value[start : start + o.batch_size] for key, value in o.data.items()}


def losses(o: Objective, params: Params, batch: Examples) -> Tensor:
    """Return one loss per example, (b,), for ``params`` instead of ``o.params``."""
    with differentiable():
        return nets.losses(o.net, o.frozen | params, batch)


@torch.no_grad()
def loss(o: Objective) -> float:
    """Return the mean loss in nats."""
    return sum(float(losses(o, o.params, batch).sum(dtype=torch.float64)) for batch in batches(o)) / o.examples


def gradient(o: Objective) -> Params:
    """Return the gradient of the mean loss; it is 0 for parameters that do not affect the loss."""
    total = tree.map(torch.zeros_like, o.params)
    for batch in batches(o):
        params = {key: value.detach().requires_grad_() for key, value in o.params.items()}
        grads = torch.autograd.grad(losses(o, params, batch).sum(), list(params.values()), materialize_grads=True)
        total = tree.add(total, dict(zip(params, grads, strict=True)))
    return tree.scale(total, 1 / o.examples)


@torch.no_grad()
def _check_deterministic(o: Objective) -> None:
    batch = next(batches(o))
    first_pass, second_pass = (losses(o, o.params, batch) for _ in range(2))
    if not torch.allclose(first_pass, second_pass, rtol=1e-4, equal_nan=True):
        raise ModelError(
            "two forward passes in evaluation mode give different losses, so the loss has no well-defined derivatives: "
            "make random layers depend on self.training, as nn.Dropout does"
        )
