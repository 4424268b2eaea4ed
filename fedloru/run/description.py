"""How a run and its partition are described in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fedloru import tree
from fedloru.data import Audit, Dataset, Partition, partition_arrays, partition_table, size
from fedloru.data.client_tests import tested_on
from fedloru.net.loss import name_of
from fedloru.run.plan import Plan, settings_table
from fedloru.tree import Params

PYTHON = "python"
"""The value of ``made_by`` in the configuration of a run from Python."""


def echo(plan: Plan) -> dict[str, Any]:
    """Return the settings of a run started from Python, in the sections of a configuration and without None."""
    sites = {site.weight: site.rank for site in plan.net.sites}
    table = {
        "made_by": PYTHON,
        "data": {"source": plan.dataset.name},
        "partition": {"scheme": plan.partition.scheme, "seed": plan.partition.seed, **plan.partition.settings},
        "model": {"name": type(plan.net.model).__name__, "hash": tree.digest(plan.net.params), **_loss(plan)},
        "lowrank": {"ranks": sites, "scales": {site.weight: site.scale for site in plan.net.sites}},
        "method": {"name": plan.method.name, **plan.method.config},
        "client": plan.recipe._asdict() | {"lr": plan.recipe.rate},
    }
    return {key: _without_none(value) for key, value in (table | settings_table(plan)).items()}


def _loss(plan: Plan) -> dict[str, str]:
    """Return the name of the loss, if it is not the default."""
    own = plan.net.score is None and name_of(plan.net.losses)
    return {"loss": own} if own else {}


def partition_record(dataset: Dataset, partition: Partition, checked: Audit | None) -> dict[str, Any]:
    """Return the content of ``partition.json``: the scheme, its settings, the classes and the audit.

    There is no audit of clients with their own data.
    """
    if checked is None:
        tested = {"clients": len(partition.train), "test_examples": size(dataset.test)}
        return {
            **partition_table(partition),
            "task": dataset.task,
            "classes": list(dataset.classes),
            "audit": tested | dataset.notes,
            "tested_on": "own",
        }
    smallest, median, largest = checked.sizes
    return {
        **partition_table(partition),
        "task": dataset.task,
        "classes": list(dataset.classes),
        "remarks": list(dataset.remarks),
        "tested_on": tested_on(dataset, partition),
        "audit": {
            "clients": checked.clients,
            "examples": checked.examples,
            "unused": checked.unused,
            "test_examples": size(dataset.test) if dataset.test else 0,
            "min": smallest,
            "median": median,
            "max": largest,
            "skew": checked.skew,
            "mean_classes": checked.classes,
            **dict(zip(("min_tokens", "median_tokens", "max_tokens"), checked.tokens or (), strict=False)),
            **dataset.notes,
        },
    }


def partition_rows(partition: Partition, checked: Audit | None) -> Params:
    """Return the content of ``partition.safetensors``: the rows of each client and, as ``labels``, their classes."""
    arrays = partition_arrays(partition)
    if checked is not None and checked.columns > 1:
        arrays["labels"] = checked.labels.values.to(torch.int32)
    return arrays


def _without_none(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
