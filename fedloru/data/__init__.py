"""Data sets, how they are parted over clients, the audit of a partition, and the batches of a client.

A data set is read once with ``load``; a partition holds row numbers into its training examples; ``schedule`` turns
a client's rows into the batches of a round, and ``fetch`` reads one.
"""

from fedloru.data.audit import Audit, audit
from fedloru.data.batches import Schedule, batches_per_epoch, fetch, schedule
from fedloru.data.catalogue import SCHEMES, SOURCES
from fedloru.data.dataset import Dataset, Examples, by_length, size
from fedloru.data.examples import described
from fedloru.data.inputs import encode
from fedloru.data.make import make as make_partition
from fedloru.data.own import from_arrow, from_frame, from_tensors, from_torch
from fedloru.data.partition import Partition, arrays_file
from fedloru.data.partition import arrays as partition_arrays
from fedloru.data.partition import load as load_partition
from fedloru.data.partition import table as partition_table
from fedloru.data.ragged import Ragged
from fedloru.data.raw import Raw, Rows
from fedloru.data.schemes import dirichlet, iid, natural, shards
from fedloru.data.sources import load, synthetic

__all__ = [
    "SCHEMES",
    "SOURCES",
    "Audit",
    "Dataset",
    "Examples",
    "Partition",
    "Ragged",
    "Raw",
    "Rows",
    "Schedule",
    "arrays_file",
    "audit",
    "batches_per_epoch",
    "by_length",
    "described",
    "dirichlet",
    "encode",
    "fetch",
    "from_arrow",
    "from_frame",
    "from_tensors",
    "from_torch",
    "iid",
    "load",
    "load_partition",
    "make_partition",
    "natural",
    "partition_arrays",
    "partition_table",
    "schedule",
    "shards",
    "size",
    "synthetic",
]
