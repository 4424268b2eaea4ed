"""All data sources and partition schemes, one line each."""

from __future__ import annotations

from collections.abc import Callable

from fedloru.data import builtin, image_tables, schemes, tables
from fedloru.data.folder import folder
from fedloru.data.npz import npz
from fedloru.data.partition import Partition
from fedloru.data.raw import Reader
from fedloru.errors import DataError, PartitionError
from fedloru.settings import Table

SOURCES: Table[Reader] = Table(
    "data source",
    {
        "mnist5k": builtin.mnist5k,
        "digits": builtin.digits,
        "synthetic": builtin.mixture,
        "parquet": image_tables.parquet,
        "folder": folder,
        "npz": npz,
        "table": tables.table,
        "csv": tables.table,
        "hub": image_tables.hub,
    },
    DataError,
)
"""The data sources by name; a ``python:`` name refers to a function that returns ``Raw``, ``Rows`` or a ``Dataset``."""

SCHEMES: Table[Callable[..., Partition]] = Table(
    "partition scheme",
    {
        "iid": schemes.iid,
        "dirichlet": schemes.dirichlet,
        "shards": schemes.shards,
        "natural": schemes.natural,
    },
    PartitionError,
)
"""The partition schemes by name; a ``python:`` name refers to a function from a data set to a ``Partition``."""
