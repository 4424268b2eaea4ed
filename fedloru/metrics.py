"""Metrics: numbers that score the outputs of a model on a whole test set, such as the area under the ROC curve.

A metric is a function of the outputs of all examples, (n, …), and of their labels or targets, (n,) or (n, t), both on
the CPU. For classes, outputs are logits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator
from torch import Tensor

from fedloru.errors import ConfigError, FedloruError, quoted, traced
from fedloru.schema import RESERVED
from fedloru.settings import Expected, Table, is_reference, one_of, short
from fedloru.settings.table import SYNTAX

Metric = Callable[[Any, Tensor], Any]
"""A function of (outputs, targets) that returns one number."""


def mse(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean squared error."""
    return float(_errors(outputs, targets).square().mean())


def rmse(outputs: Tensor, targets: Tensor) -> float:
    """Return the root of the mean squared error, in the unit of the targets."""
    return math.sqrt(mse(outputs, targets))


def mae(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean absolute error, in the unit of the targets."""
    return float(_errors(outputs, targets).abs().mean())


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Return the coefficient of determination R², averaged over targets: 1 is perfect, 0 what the mean achieves."""
    from sklearn.metrics import r2_score

    predicted, true = _pairs(outputs, targets)
    return float(r2_score(true.numpy(), predicted.numpy()))


def auc(outputs: Tensor, targets: Tensor) -> float:
    """Return the area under the ROC curve; with more than two classes, the mean of one class against the others."""
    from sklearn.metrics import roc_auc_score

    scores, true = _flat(outputs).double(), targets.numpy()
    if targets.ndim == 1 and scores.ndim == 2:
        scores = scores.softmax(1)
        present = targets.unique().tolist() if scores.shape[1] > 2 else [1]
        areas = [float(roc_auc_score(true == each, scores[:, int(each)].numpy())) for each in present]
        return sum(areas) / len(areas)
    return float(roc_auc_score(true, scores.numpy()))


def f1(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean over classes of F1, the harmonic mean of precision and recall (macro-F1)."""
    from sklearn.metrics import f1_score

    return float(f1_score(targets.numpy(), _predicted(outputs).numpy(), average="macro", zero_division=0))


def balanced_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean over classes of the share of their examples that are recognized."""
    from sklearn.metrics import balanced_accuracy_score

    return float(balanced_accuracy_score(targets.numpy(), _predicted(outputs).numpy()))


METRICS: Table[Metric] = Table(
    "metric",
    {"auc": auc, "f1": f1, "balanced_accuracy": balanced_accuracy, "mse": mse, "rmse": rmse, "mae": mae, "r2": r2},
)
"""The metrics by name; a ``python:`` name refers to a function of (outputs, targets)."""

OF_TARGETS = ("mse", "rmse", "mae", "r2")
OF_CLASSES = ("f1", "balanced_accuracy")
FOR_REGRESSION = ("rmse", "mae", "r2")
"""The metrics of a regression by default; its loss is recorded anyway, as are the accuracy and F1 of a classifier."""

TEXT = f"a list of {one_of(METRICS)}, {SYNTAX}, or a table from names to these"


def _known(metrics: Any) -> Any:
    """Return ``metrics`` if they are a list of names, or a table from names to metrics."""
    if isinstance(metrics, str) or not isinstance(metrics, Mapping | list | tuple):
        raise ValueError("neither a list nor a table")
    named = metrics if isinstance(metrics, Mapping) else dict.fromkeys(map(str, metrics), "")
    if not all(isinstance(name, str) and name.strip() and name not in RESERVED for name in named):
        raise ValueError("a name is empty or reserved")
    for each in metrics.values() if isinstance(metrics, Mapping) else metrics:
        if not (each in METRICS or is_reference(each) if isinstance(each, str) else callable(each)):
            raise ValueError("no metric has this name")
    return metrics


Chosen = Annotated[Any, AfterValidator(_known), Expected(TEXT)]
"""A list of names, or a table from names to metrics or their names."""


def named(chosen: Any) -> dict[str, Metric]:
    """Return the metrics of a list of names, or of a table from names to metrics or their names.

    Raises:
        ConfigError: a reference leads nowhere.
    """
    entries = chosen if isinstance(chosen, Mapping) else {short(each): each for each in chosen}
    return {name: METRICS.find(each) if isinstance(each, str) else each for name, each in entries.items()}


def recorded(chosen: Any) -> Any:
    """Return ``chosen`` as values that TOML can hold: functions by their names."""
    if not isinstance(chosen, Mapping):
        return chosen
    return {name: each if isinstance(each, str) else _name(each) for name, each in chosen.items()}


def _name(metric: Metric) -> str:
    return str(getattr(metric, "__qualname__", type(metric).__name__))


class Missing(NamedTuple):
    """Why a metric has no value: it is not finite, or it has ``raised`` an exception."""

    reason: str
    raised: bool


class Measured(NamedTuple):
    """The values of metrics by name, and why others have no value."""

    values: dict[str, float]
    missing: dict[str, Missing]


def measure(metrics: Mapping[str, Metric], outputs: Any, targets: Tensor) -> Measured:
    """Return the metrics of ``outputs``, (n, …), for examples with ``targets``; those that fail have no value.

    Example:
        >>> measure({"mae": mae}, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])).values
        {'mae': 1.0}
    """
    found = Measured({}, {})
    for name, metric in metrics.items():
        try:
            with warnings.catch_warnings(action="ignore"):  # such as of a class without examples
                value = float(metric(outputs, targets))
        except FedloruError as error:
            found.missing[name] = Missing(str(error), True)
        except Exception as error:  # user code may raise anything
            found.missing[name] = Missing(f"it failed with {traced(error)}", True)
        else:
            if math.isfinite(value):
                found.values[name] = value
            else:
                found.missing[name] = Missing(f"it is {value}", False)
    return found


def problems(metrics: Mapping[str, Metric], task: str, has_labels: bool) -> Iterator[str]:
    """Yield why built-in ``metrics`` cannot score examples of ``task``, or examples that have no label each."""
    known = {METRICS[name]: name for name in METRICS}
    for label, metric in metrics.items():
        name = known.get(metric, "")
        if not has_labels:
            yield f"eval.metrics has {quoted(label)}, but the examples have no label each, 'y': remove it"
        elif (name in OF_TARGETS) != (task == "regression") and name in (*OF_TARGETS, *OF_CLASSES):
            other = FOR_REGRESSION if task == "regression" else ("auc", *OF_CLASSES)
            yield f"eval.metrics has {name!r}, which is not defined for a {task}: use {one_of(other)}"


def _errors(outputs: Tensor, targets: Tensor) -> Tensor:
    predicted, true = _pairs(outputs, targets)
    return predicted - true


def _pairs(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if outputs.numel() != targets.numel():
        raise ConfigError(
            [f"outputs have shape {tuple(outputs.shape)}, and targets {tuple(targets.shape)}"], "a metric"
        )
    n = len(targets)
    return outputs.reshape(n, -1).double(), targets.reshape(n, -1).double()


def _flat(outputs: Tensor) -> Tensor:
    """Return outputs (n, 1) as (n,), the logits of the second of two classes, and others as they are."""
    return outputs.squeeze(1) if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs


def _predicted(outputs: Tensor) -> Tensor:
    flat = _flat(outputs)
    return (flat > 0).long() if flat.ndim == 1 else flat.argmax(1)
