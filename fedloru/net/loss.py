"""The losses by name, one value per example.

A loss is a function of the outputs of the model and the batch, whose labels or targets are ``batch["y"]``. By default,
the type of the labels chooses it: cross-entropy for classes, and the squared error for the targets of a regression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedloru.errors import ModelError
from fedloru.settings import Table, is_reference

Batch = dict[str, Tensor]
Loss = Callable[[Any, Batch], Tensor]
"""A function of (outputs, batch) that returns one loss per example, (b,)."""


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy in nats, (b,), of logits (b, classes) against ``batch["y"]``."""
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def mse(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the squared error, (b,), averaged over the targets of each example."""
    return F.mse_loss(*_pairs(outputs, batch["y"]), reduction="none").mean(1)


def l1(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the absolute error, (b,), averaged over the targets of each example."""
    return F.l1_loss(*_pairs(outputs, batch["y"]), reduction="none").mean(1)


def huber(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the Huber loss, (b,): half the squared error up to an error of 1, and linear beyond."""
    return F.huber_loss(*_pairs(outputs, batch["y"]), reduction="none").mean(1)


def bce(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the binary cross-entropy in nats, (b,), of logits against targets from 0 to 1, averaged over targets."""
    return F.binary_cross_entropy_with_logits(*_pairs(outputs, batch["y"]), reduction="none").mean(1)


def by_labels(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the squared error if labels are floating-point targets, and else the cross-entropy; the default."""
    return (mse if batch["y"].is_floating_point() else cross_entropy)(outputs, batch)


LOSSES: Table[Loss] = Table(
    "loss", {"cross_entropy": cross_entropy, "mse": mse, "l1": l1, "huber": huber, "bce": bce}, ModelError
)
"""The losses by name; a ``python:`` name refers to a function of (outputs, batch)."""

OF_CLASSES = frozenset({cross_entropy})
OF_TARGETS = frozenset({mse, l1, huber})
OF_LABELS = OF_CLASSES | OF_TARGETS | {bce, by_labels}
"""The losses that read ``batch["y"]``; others may read anything."""


def find(loss: str | Loss) -> Loss:
    """Return the loss of this name, or ``loss`` itself if it is a function.

    Raises:
        ModelError: there is no such loss, or a reference leads nowhere.
    """
    found: Any = LOSSES.find(loss) if isinstance(loss, str) else loss
    if not callable(found) or isinstance(found, type):
        raise ModelError(
            f"the loss is {loss!r}, expected a function of (outputs, batch) that returns one loss per example, or one "
            f"of {', '.join(LOSSES)}"
        )
    return found  # type: ignore[no-any-return]


def name_of(loss: Loss) -> str:
    """Return the name of a loss for records: that in ``LOSSES``, or that of the function; "" for the default."""
    if loss is by_labels:
        return ""
    known = {function: name for name, function in LOSSES.items()}
    return known.get(loss) or str(getattr(loss, "__name__", type(loss).__name__))


def outputs_for(loss: str | None, y: Tensor | None, classes: int) -> int:
    """Return how many outputs a model has for labels ``y``: one per class, or per target; one for ``bce``.

    Args:
        loss: the name of the loss; None stands for the default.
        y: the labels, (N,) or (N, t).
        classes: the number of classes; 0 for a regression.
    """
    if y is None or (classes and loss != "bce"):
        return classes
    return y.shape[1] if y.ndim > 1 else 1


def problem(loss: Loss, y: Tensor, classes: int) -> str | None:
    """Return why ``loss`` cannot be computed from labels ``y`` of that many classes (0: a regression); else None."""
    is_target = y.is_floating_point() and not classes
    if loss in OF_CLASSES and is_target:
        return (
            "the loss cross_entropy needs classes, but y has targets of a regression: use mse, l1 or huber, or integers"
        )
    if loss in OF_TARGETS and not is_target:
        return (
            f"the loss {name_of(loss)} needs targets, but y has classes: use cross_entropy, or data.task = 'regression'"
        )
    if loss is bce and classes > 2:
        return f"the loss bce is for two classes, but there are {classes}: use cross_entropy"
    if loss is bce and not bool(((y >= 0) & (y <= 1)).all()):
        return f"the loss bce needs targets from 0 to 1, but y is from {float(y.min()):g} to {float(y.max()):g}"
    if loss in OF_LABELS and not is_target and loss is not bce and y.ndim != 1:
        return (
            f"y has shape {tuple(y.shape)}, but the cross-entropy needs one class index per example, (N,): use "
            "y.argmax(1) for one-hot labels, or set losses of the net"
        )
    return None


def _pairs(outputs: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs and targets as two tensors (b, t)."""
    if not isinstance(outputs, Tensor) or outputs.shape not in (y.shape, (*y.shape, 1)):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(f"the model returns {got} for targets of shape {tuple(y.shape)}: return one output per target")
    flat: Tensor = outputs.reshape(len(y), -1)
    return flat, y.reshape(len(y), -1).to(flat.dtype)


def described(loss: str) -> str:
    """Return the name of a loss without the module that it is in."""
    return loss.rpartition(":")[2] if is_reference(loss) else loss


def check(each: Any, count: int) -> Tensor:
    """Return the losses ``each`` of a batch of ``count`` examples.

    Raises:
        ModelError: they are not a tensor (count,) of real numbers.
    """
    if not isinstance(each, Tensor):
        raise ModelError(f"the loss is a {type(each).__name__}, expected a tensor with one loss per example, (b,)")
    if each.ndim != 1 or len(each) != count:
        raise ModelError(
            f"the loss has shape {tuple(each.shape)} for a batch of {count}, but one loss per example, (b,), is "
            "expected: use reduction='none', and average over all axes except the first"
        )
    if not torch.is_floating_point(each):
        raise ModelError(f"the loss has {each.dtype}, expected floating-point numbers")
    return each
