"""Evaluation of the shared model on held-out examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.data import Examples
from fedloru.errors import ModelError, traced
from fedloru.method import Method, State
from fedloru.net import Net, constants, held_outputs, holding, mode, unshared
from fedloru.tree import Params


class Score(NamedTuple):
    """Mean loss in nats, share of examples classified rightly, over ``examples`` examples, and macro-F1."""

    loss: float
    accuracy: float
    examples: int
    f1: float


def shared_model(net: Net, method: Method, state: State) -> Params:
    """Return the tensors of the forward pass that a client of the usual profile would begin with."""
    if method.view is not None:
        return constants(net, state.base) | method.view(net, state)
    down = method.down(net, state, ())
    begun = method.begin(net, down, {}, ())
    return constants(net, state.base) | (begun if method.expand is None else method.expand(net, begun, down))


@torch.no_grad()
def evaluate(net: Net, tensors: Params, data: Examples, batch_size: int = 1000) -> Score:
    """Score ``tensors`` on all of ``data``, in evaluation mode.

    Raises:
        ModelError: the model fails.
    """
    total = len(data["y"])
    loss, confusions = [], []
    with mode(net, False), holding(net, unshared(net, tensors)):
        for start in range(0, total, batch_size):
            batch = {key: value[start : start + batch_size] for key, value in data.items()}
            with _naming(start, min(start + batch_size, total)):
                outputs = held_outputs(net, batch)
                loss.append(net.losses(outputs, batch).sum())
                confusions.append(confused(batch["y"], outputs))
    confusion = torch.stack(confusions).sum(0).cpu()
    return Score(sum(torch.stack(loss).tolist()) / total, int(confusion.trace()) / total, total, macro_f1(confusion))


@contextmanager
def _naming(start: int, end: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the user's own code may raise anything
        told = f"the model cannot be evaluated on test examples {start} to {end - 1}: {traced(error)}; mend it"
        raise ModelError(told) from error


def confused(y: Tensor, outputs: Tensor) -> Tensor:
    """Count the examples of each class (rows) that are given each class (columns), (C, C) int64."""
    classes = outputs.shape[-1]
    return torch.bincount(y * classes + outputs.argmax(-1), minlength=classes**2).view(classes, classes)


def macro_f1(confusion: Tensor) -> float:
    """Return the mean of 2·hits/(examples + predictions) over the classes that are there or are predicted."""
    either = confusion.sum(0) + confusion.sum(1)
    each = 2 * confusion.diagonal().double() / either
    return float(each[either > 0].mean())
