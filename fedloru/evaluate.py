"""Evaluation of the shared model on held-out examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.data import Examples, by_length, described
from fedloru.errors import ModelError, listed, traced
from fedloru.inference import computing, prepare
from fedloru.method import Method, State
from fedloru.net import Metrics, Net, compute_outputs, constants, metrics
from fedloru.tree import Params


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

    Factors are merged into the weights where that is cheaper; see ``fedloru.inference``.

    ``rows`` are the examples to use, (n,) int64; None means all.

    Raises:
        ModelError: the model raises an exception.
    """
    order = by_length(data)
    if rows is not None:
        order = order[torch.isin(order, rows.to(order.device))]
    with naming_examples("test", data, order[:1]):
        inference = prepare(net, tensors, data, order)
    scored = []
    with computing(inference):
        for part in order.split(min(batch_size, inference.batch_size)):
            with naming_examples("test", data, part):
                batch = inference.fetch(data, part)
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
