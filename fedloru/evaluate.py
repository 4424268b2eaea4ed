"""Evaluation of the shared model on held-out examples, in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fedloru.data import Examples, by_length, described, fetch
from fedloru.errors import ModelError, listed, traced
from fedloru.method import Method, State
from fedloru.net import Metrics, Net, compute_outputs, constants, forward, metrics, mode, unshared, use_tensors
from fedloru.tree import Params

CPU_ROOM = 2**30
"""Budget in bytes for the activations, summed over all layers, of the examples that a CPU evaluates at once."""


class Score(NamedTuple):
    """The mean loss in nats, the accuracy, the number of units they are averaged over, and a classifier's macro-F1.

    Units are examples; for a language model, they are the tokens to be predicted.
    """

    loss: float
    accuracy: float
    units: int
    f1: float | None = None


def shared_model(net: Net, method: Method, state: State) -> Params:
    """Return the forward tensors with which a client of the default profile would start the next round."""
    if method.view is not None:
        return constants(net, state.base) | method.view(net, state)
    down = method.down(net, state, ())
    start = method.begin(net, down, {}, ())
    return constants(net, state.base) | (start if method.expand is None else method.expand(net, start, down))


@torch.no_grad()
def evaluate(net: Net, tensors: Params, data: Examples, batch_size: int = 1000, *, rows: Tensor | None = None) -> Score:
    """Score ``tensors`` on ``data``, in evaluation mode, in batches of at most ``batch_size`` examples.

    ``rows`` are the examples to use, (n,) int64; None means all.

    Raises:
        ModelError: the model raises an exception.
    """
    order, scored = by_length(data), []
    if rows is not None:
        order = order[torch.isin(order, rows.to(order.device))]
    with naming_examples("test", data, order[:1]):
        limit = room(order.device, CPU_ROOM) // activation_bytes(net, tensors, data)
    with mode(net, False), use_tensors(net, unshared(net, tensors)):
        for part in order.split(max(1, min(batch_size, limit))):
            with naming_examples("test", data, part):
                batch = fetch(data, part)
                scored.append(metrics(net, compute_outputs(net, batch), batch))
    return _score(scored)


@contextmanager
def naming_examples(kind: str, data: Examples, rows: Tensor) -> Iterator[None]:
    """Name the examples at ``rows``, which are of the given kind, if the model fails on them.

    Raises:
        ModelError: an exception was raised inside the context.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # user code may raise anything
        raise ModelError(
            f"the model cannot be evaluated on {kind} examples {listed(rows.tolist())}, each with {described(data)}: "
            f"{traced(error)}; fix the model or the examples"
        ) from error


def _score(scored: list[Metrics]) -> Score:
    loss, right, units = (sum(torch.stack(values).tolist()) for values in zip(*(m[:3] for m in scored), strict=True))
    confusions = [m.confusion for m in scored if m.confusion is not None]
    f1 = macro_f1(torch.stack(confusions).sum(0)) if confusions else None
    return Score(loss / units, right / units, units, f1)


def macro_f1(confusion: Tensor) -> float:
    """Return the mean of F1 = 2·hits/(examples + predictions) over all classes that occur or are predicted."""
    occurrences = confusion.sum(0) + confusion.sum(1)
    f1 = 2 * confusion.diagonal().double() / occurrences
    return float(f1[occurrences > 0].mean())


def room(device: torch.device, on_cpu: int) -> int:
    """Return the budget in bytes for the working set of a computation: ``on_cpu``, or an eighth of a GPU's memory."""
    return torch.cuda.mem_get_info(device)[1] // 8 if device.type == "cuda" else on_cpu


@torch.no_grad()
def activation_bytes(net: Net, tensors: Params, data: Examples) -> int:
    """Return the total size in bytes of the outputs of all layers for one example, the longest.

    The output of the model itself counts three times, for its log-probabilities and its gradient: for a language
    model, whose output spans the vocabulary, this is the largest part.
    """
    sizes: list[int] = []

    def count(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    hooks = [m.register_forward_hook(count) for m in net.model.modules() if not any(m.children())]
    try:
        with mode(net, False):
            outputs = forward(net, unshared(net, tensors), fetch(data, by_length(data)[:1]))
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, sum(sizes) + 2 * sum(t.nbytes for t in tree_leaves(outputs) if isinstance(t, Tensor)))
