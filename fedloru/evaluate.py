"""Evaluation of the shared model on held-out examples, so many at once as the memory has room for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fedloru.data import Examples, by_length, fetch
from fedloru.data.partition import listed
from fedloru.errors import ModelError, traced
from fedloru.method import Method, State
from fedloru.net import Metrics, Net, constants, forward, held_outputs, holding, metrics, mode, unshared
from fedloru.tree import Params

CPU_ROOM = 2**30
"""Bytes of activations, those of all layers together, of the examples that are evaluated at once on a CPU."""


class Score(NamedTuple):
    """Mean loss in nats and share predicted rightly, over so many units, and the macro-F1 of a classifier.

    Units are examples, or for a language model the tokens that it should say.
    """

    loss: float
    accuracy: float
    units: int
    f1: float | None = None


def shared_model(net: Net, method: Method, state: State) -> Params:
    """Return the tensors of the forward pass that a client of the usual profile would begin with."""
    if method.view is not None:
        return constants(net, state.base) | method.view(net, state)
    down = method.down(net, state, ())
    begun = method.begin(net, down, {}, ())
    return constants(net, state.base) | (begun if method.expand is None else method.expand(net, begun, down))


@torch.no_grad()
def evaluate(net: Net, tensors: Params, data: Examples, batch_size: int = 1000) -> Score:
    """Score ``tensors`` on all of ``data``, in evaluation mode, at most ``batch_size`` examples at once.

    Raises:
        ModelError: the model fails.
    """
    rows, counted = by_length(data), []
    with _naming(rows[:1]):
        most = room(rows.device, CPU_ROOM) // activation_bytes(net, tensors, data)
    with mode(net, False), holding(net, unshared(net, tensors)):
        for part in rows.split(max(1, min(batch_size, most))):
            with _naming(part):
                batch = fetch(data, part)
                counted.append(metrics(net, held_outputs(net, batch), batch))
    return _score(counted)


@contextmanager
def _naming(rows: Tensor) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the user's own code may raise anything
        told = f"the model cannot be evaluated on test examples {listed(rows.tolist())}: {traced(error)}; mend it"
        raise ModelError(told) from error


def _score(counted: list[Metrics]) -> Score:
    loss, right, units = (sum(torch.stack(values).tolist()) for values in zip(*(t[:3] for t in counted), strict=True))
    confusions = [t.confusion for t in counted if t.confusion is not None]
    f1 = macro_f1(torch.stack(confusions).sum(0)) if confusions else None
    return Score(loss / units, right / units, units, f1)


def macro_f1(confusion: Tensor) -> float:
    """Return the mean of 2·hits/(examples + predictions) over the classes that are there or are predicted."""
    either = confusion.sum(0) + confusion.sum(1)
    each = 2 * confusion.diagonal().double() / either
    return float(each[either > 0].mean())


def room(device: torch.device, on_cpu: int) -> int:
    """Return how many bytes a computation may keep busy: ``on_cpu``, or an eighth of a GPU's memory."""
    return torch.cuda.mem_get_info(device)[1] // 8 if device.type == "cuda" else on_cpu


@torch.no_grad()
def activation_bytes(net: Net, tensors: Params, data: Examples) -> int:
    """Return the bytes that the layers of the model put out for one example, the longest.

    What the model itself puts out counts three times, with its log-probabilities and its gradient: over a vocabulary,
    that is most of all.
    """
    found: list[int] = []

    def count(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            found.append(output.nbytes)

    hooks = [m.register_forward_hook(count) for m in net.model.modules() if not any(m.children())]
    try:
        with mode(net, False):
            outputs = forward(net, unshared(net, tensors), fetch(data, by_length(data)[:1]))
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, sum(found) + 2 * sum(t.nbytes for t in tree_leaves(outputs) if isinstance(t, Tensor)))
