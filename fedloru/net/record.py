"""``Net``: a model as data, the default loss and inputs, and the metrics of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import tree
from fedloru.lowrank import Increment, Site
from fedloru.tree import Params

Batch = dict[str, Tensor]


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy in nats, (b,), of logits (b, classes) against ``batch["y"]``."""
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def images(batch: Batch) -> dict[str, Tensor]:
    """Pass ``batch["x"]`` to the model as its only positional argument; the default of ``Net.inputs``."""
    return {"": batch["x"]}


class Metrics(NamedTuple):
    """Sums over the units of a batch: the losses in nats, the number of correct predictions, and the number of units.

    For classification, ``confusion`` (C, C) counts the examples by true class and predicted class.
    """

    loss: Tensor
    right: Tensor
    count: Tensor  # type: ignore[assignment]  # overrides tuple.count, which is not needed here
    confusion: Tensor | None = None


class Source(NamedTuple):
    """How another process makes a net again: a function ``module:name`` of its training examples and ``settings``.

    ``settings`` are values that JSON can hold.
    """

    function: str
    settings: Mapping[str, Any]


class Net(NamedTuple):
    """A model as data: static, never traced.

    ``params`` and ``buffers`` are the initial tensors; ``trainable`` contains the names of the parameters that a
    method may train. ``losses`` maps (outputs, batch) to (b,), one loss per example. ``inputs`` maps a batch to the
    keyword arguments of the model; the empty name stands for the first positional argument. ``score`` maps
    (outputs, batch) to the metrics of the batch, summed over its units (None: the losses, and the accuracy of the
    class with the highest output). If ``local_base`` is set, every client loads the frozen weights itself, and they are
    never sent. ``imported`` is an increment that is already merged into ``params``, such as an adapter. ``source`` is
    how another process makes the net again (None: it cannot).
    """

    model: nn.Module
    sites: tuple[Site, ...]
    params: Params
    buffers: Params
    trainable: frozenset[str]
    losses: Callable[[Any, Batch], Tensor] = cross_entropy
    inputs: Callable[[Batch], dict[str, Tensor]] = images
    skipped: Mapping[str, str] = {}
    score: Callable[[Any, Batch], Metrics] | None = None
    unit: Literal["example", "token"] = "example"
    local_base: bool = False
    imported: Increment | None = None
    source: Source | None = None

    @property
    def factors(self) -> frozenset[str]:
        """The keys of all factors."""
        return frozenset(key for site in self.sites for key in site.keys)

    @property
    def statistics(self) -> frozenset[str]:
        """The keys of floating-point buffers, such as BatchNorm's running means: averaged, never trained."""
        return frozenset(key for key, value in self.buffers.items() if value.is_floating_point())

    def __repr__(self) -> str:
        """Return the model, its low-rank layers and its sizes in one line."""
        ranks = sorted({site.rank for site in self.sites})
        span = f"rank {' to '.join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))}" if ranks else "no rank"
        sizes = tree.size(tree.omit(self.params, self.factors)), tree.size(tree.select(self.params, self.trainable))
        counts = f"{sizes[0]:,} parameters, {sizes[1]:,} trainable"
        layers = f"{len(self.sites)} low-rank layer{'s' * (len(self.sites) != 1)}"
        return f"Net({type(self.model).__name__}, {layers}, {span}, {counts})"


def metrics(net: Net, outputs: Any, batch: Batch) -> Metrics:
    """Return the metrics of ``outputs`` on ``batch``."""
    if net.score is not None:
        return net.score(outputs, batch)
    return classification_metrics(net.losses(outputs, batch), outputs, batch["y"])


def classification_metrics(losses: Tensor, scores: Tensor, y: Tensor) -> Metrics:
    """Return the metrics of examples of classes ``y`` (b,), from their ``losses`` (b,) and ``scores`` (b, C)."""
    classes = scores.shape[-1]
    pairs = torch.bincount(y * classes + scores.argmax(-1), minlength=classes**2)
    confusion = pairs.view(classes, classes)
    return Metrics(losses.sum(), confusion.trace(), confusion.sum(), confusion)
