"""The names of losses and metrics in tables, tiles and axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedloru.report import units
from fedloru.settings import short

NATS = "loss (nats)"
LOSSES = {
    "cross_entropy": NATS,
    "bce": NATS,
    "mse": "mean squared error",
    "l1": "mean absolute error",
    "huber": "Huber loss",
}
METRICS = {
    "auc": "AUC",
    "f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "mse": "mean squared error",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "r2": "R²",
}


def loss(summary: Mapping[str, Any]) -> str:
    """Return the name of the loss, with its unit if it has one, from a summary or the ``outcome`` of a run."""
    name = str(summary.get("loss") or ("mse" if is_regression(summary) else "cross_entropy"))
    return LOSSES.get(name, short(name).replace("_", " "))


def unit(summary: Mapping[str, Any]) -> str:
    """Return the unit of the loss as it follows a number, such as " nats"; "" if it is that of the targets."""
    return " nats" if loss(summary) == NATS else ""


def is_regression(summary: Mapping[str, Any]) -> bool:
    """Return whether a run predicts targets, so that there is no accuracy."""
    return summary.get("task") == "regression"


def metric(name: str) -> str:
    """Return the name of a metric as it is displayed."""
    return METRICS.get(name, name.replace("_", " "))


def value(number: float | None) -> str:
    """Return the value of a metric, whose unit may be any, to three significant digits."""
    return units.DASH if number is None else units.digits(number)
