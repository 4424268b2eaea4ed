"""The partitioners of flwr-datasets, which draw skewed partitions."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import chain
from typing import Any

import numpy as np
import torch

from fedloru.data.ragged import Ragged
from fedloru.errors import optional


def partitioners(scheme: str) -> Any:
    """Return the module of partitioners, for the partition scheme ``scheme``.

    Raises:
        MissingExtraError: flwr-datasets is not installed.
    """
    return optional("flwr_datasets.partitioner", extra="data", purpose=f"the partition scheme {scheme!r}")


def assign(partitioner: Any, values: Sequence[Any]) -> Ragged:
    """Partition rows by ``values`` with a partitioner of flwr-datasets; return the positions of each client."""
    datasets = optional("datasets", extra="data", purpose="partitioning with flwr-datasets")
    partitioner.dataset = datasets.Dataset.from_dict({"value": list(values)})
    quiet = warnings.catch_warnings(action="ignore", category=UserWarning)
    with quiet, redirect_stderr(io.StringIO()), np.errstate(divide="raise", invalid="raise"):
        partitioner.load_partition(0)
    # The first call fills this table for all clients; calling load_partition for each would take about 1 ms per client.
    indices = partitioner._partition_id_to_indices
    sizes = torch.tensor([len(indices[client]) for client in range(len(indices))], dtype=torch.int64)
    positions = chain.from_iterable(indices[client] for client in range(len(indices)))
    return Ragged.sized(torch.from_numpy(np.fromiter(positions, np.int64, int(sizes.sum()))), sizes)
