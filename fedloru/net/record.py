"""``Net``: a model as data, the default loss and inputs, and the metrics of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fedloru import tree
from fedloru.errors import counted
from fedloru.lowrank import Increment, Site
from fedloru.net.loss import Batch, Loss, by_labels
from fedloru.tree import Params


def images(batch: Batch) -> dict[str, Tensor]:
    """Pass ``batch["x"]`` to the model as its only positional argument; the default of ``Net.inputs``."""
    return {"": batch["x"]}


class Metrics(NamedTuple):
    """Sums over the units of a batch: the losses, the number of correct predictions, and the number of units.

    For classification, ``confusion`` (C, C) counts the examples by true class and predicted class. Without classes,
    such as in a regression, ``right`` is None.
    """

    loss: Tensor
    right: Tensor | None
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
    (outputs, batch) to the metrics of the batch, summed over its units (None: the losses and, if labels are classes,
    the accuracy of the class with the highest output). If ``local_base`` is set, every client loads the frozen weights
    itself, and they are never sent. ``imported`` is an increment that is already merged into ``params``, such as an
    adapter. ``source`` is how another process makes the net again (None: it cannot).
    """

    model: nn.Module
    sites: tuple[Site, ...]
    params: Params
    buffers: Params
    trainable: frozenset[str]
    losses: Loss = by_labels
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
        trainable = tree.select(self.params, self.trainable & self.params.keys())
        sizes = tree.size(tree.omit(self.params, self.factors)), tree.size(trainable)
        counts = f"{sizes[0]:,} parameters, {sizes[1]:,} trainable"
        layers = f"{counted(len(self.sites), 'low-rank layer')}"
        return f"Net({type(self.model).__name__}, {layers}, {span}, {counts})"


def metrics(net: Net, outputs: Any, batch: Batch) -> Metrics:
    """Return the metrics of ``outputs`` on ``batch``."""
    if net.score is not None:
        return net.score(outputs, batch)
    losses, y = net.losses(outputs, batch), batch.get("y")
    if (scores := _class_scores(outputs, y)) is None:
        return Metrics(losses.sum(), None, torch.tensor(len(losses), device=losses.device))
    return classification_metrics(losses, scores, batch["y"])


def _class_scores(outputs: Any, y: Tensor | None) -> Tensor | None:
    """Return scores (b, C) of the classes of labels ``y``; None if these are no classes, or outputs no scores.

    A single output, (b,) or (b, 1), is the logit of the second of two classes.
    """
    if y is None or y.is_floating_point() or y.ndim != 1 or not isinstance(outputs, Tensor):
        return None
    if outputs.shape in (y.shape, (*y.shape, 1)):
        return torch.stack([torch.zeros_like(outputs.flatten()), outputs.flatten()], 1)
    return outputs if outputs.ndim == 2 else None


def classification_metrics(losses: Tensor, scores: Tensor, y: Tensor) -> Metrics:
    """Return the metrics of examples of classes ``y`` (b,), from their ``losses`` (b,) and ``scores`` (b, C)."""
    classes = scores.shape[-1]
    pairs = torch.bincount(y * classes + scores.argmax(-1), minlength=classes**2)
    confusion = pairs.view(classes, classes)
    return Metrics(losses.sum(), confusion.trace(), confusion.sum(), confusion)
