"""Evaluation of the shared model on held-out examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru.data import Examples, by_length, described
from fedloru.errors import ModelError, listed, traced
from fedloru.inference import computing, prepare
from fedloru.method import Method, State
from fedloru.metrics import Measured, Metric, Missing, measure
from fedloru.net import Batch, Metrics, Net, compute_outputs, constants
from fedloru.net import metrics as sums
from fedloru.tree import Params


class Score(NamedTuple):
    """The mean loss, the accuracy, the number of units they are averaged over, and a classifier's macro-F1.

    Units are examples; for a language model, they are the tokens to be predicted. Without classes, such as in a
    regression, ``accuracy`` and ``f1`` are None. ``metrics`` are the values of further metrics by name, and ``missing``
    says why others have no value.
    """

    loss: float
    accuracy: float | None
    units: int
    f1: float | None = None
    metrics: Mapping[str, float] = {}
    missing: Mapping[str, Missing] = {}

    @property
    def numbers(self) -> dict[str, float]:
        """The loss, the accuracy, F1 and all metrics by name, as far as they have a value."""
        found = {"loss": self.loss, "accuracy": self.accuracy, "f1": self.f1, **self.metrics}
        return {name: value for name, value in found.items() if value is not None}


def shared_model(net: Net, method: Method, state: State) -> Params:
    """Return the forward tensors with which a client of the default profile would start the next round."""
    if method.view is not None:
        return constants(net, state.base) | method.view(net, state)
    down = method.down(net, state, ())
    start = method.begin(net, down, {}, ())
    return constants(net, state.base) | (start if method.expand is None else method.expand(net, start, down))


@torch.no_grad()
def evaluate(
    net: Net,
    tensors: Params,
    data: Examples,
    batch_size: int = 1000,
    *,
    rows: Tensor | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Score:
    """Score ``tensors`` on ``data``, in evaluation mode, in batches of at most ``batch_size`` examples.

    Factors are merged into the weights where that is cheaper; see ``fedloru.inference``.

    Args:
        net: the model.
        tensors: the tensors that it computes with.
        data: the examples.
        batch_size: the maximum number of examples in a batch.
        rows: the examples to use, (n,) int64; None means all.
        metrics: further metrics by name, which score the outputs of all examples and their labels ``y``.

    Raises:
        ModelError: the model raises an exception.
    """
    order = by_length(data)
    if rows is not None:
        order = order[torch.isin(order, rows.to(order.device))]
    with naming_examples("test", data, order[:1]):
        inference = prepare(net, tensors, data, order)
    scored, gathered = [], _Outputs([], [])
    with computing(inference):
        for part in order.split(min(batch_size, inference.batch_size)):
            with naming_examples("test", data, part):
                batch = inference.fetch(data, part)
                outputs = compute_outputs(net, batch)
                scored.append(sums(net, outputs, batch))
            if metrics:
                gathered.add(outputs, batch)
    return _score(scored, gathered.measured(metrics) if metrics else Measured({}, {}))


class _Outputs(NamedTuple):
    """The outputs of the batches so far, on the CPU, and their labels."""

    outputs: list[Tensor]
    labels: list[Tensor]

    def add(self, outputs: Any, batch: Batch) -> None:
        """Add the outputs of a batch; those of a transformers model are its logits."""
        each = getattr(outputs, "logits", outputs)
        if not isinstance(each, Tensor):
            raise ModelError(f"the model returns a {type(each).__name__}, but eval.metrics need one tensor of outputs")
        self.outputs.append(each.cpu().to(torch.promote_types(each.dtype, torch.float32)))
        self.labels.append(batch["y"].cpu())

    def measured(self, metrics: Mapping[str, Metric]) -> Measured:
        """Return the metrics of all examples."""
        return measure(metrics, torch.cat(self.outputs), torch.cat(self.labels))


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


def _score(scored: list[Metrics], measured: Measured) -> Score:
    loss, units = (
        sum(torch.stack(values).tolist()) for values in zip(*((m.loss, m.count) for m in scored), strict=True)
    )
    rights = [m.right for m in scored if m.right is not None]
    accuracy = sum(torch.stack(rights).tolist()) / units if rights else None
    confusions = [m.confusion for m in scored if m.confusion is not None]
    f1 = macro_f1(torch.stack(confusions).sum(0)) if confusions else None
    return Score(loss / units, accuracy, units, f1, measured.values, measured.missing)


def macro_f1(confusion: Tensor) -> float:
    """Return the mean of F1 = 2·hits/(examples + predictions) over all classes that occur or are predicted."""
    occurrences = confusion.sum(0) + confusion.sum(1)
    f1 = 2 * confusion.diagonal().double() / occurrences
    return float(f1[occurrences > 0].mean())
