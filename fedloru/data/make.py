"""Partitions by the names and settings that a configuration gives."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from fedloru.data.dataset import Dataset
from fedloru.data.partition import Partition
from fedloru.data.schemes import dirichlet, iid, natural, shards
from fedloru.errors import PartitionError, choices

SCHEMES: dict[str, Callable[..., Partition]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "shards": shards,
    "natural": natural,
}
"""The schemes by the name they have in a configuration."""


def make(dataset: Dataset, scheme: str, clients: int | None = None, seed: int = 0, **settings: Any) -> Partition:
    """Part ``dataset`` by the name of a scheme; ``clients`` may be left out where the data decides it.

    Raises:
        PartitionError: an unknown scheme or setting, a missing setting, or what the scheme itself refuses.
    """
    if scheme not in SCHEMES:
        raise PartitionError(f"there is no partition scheme {scheme!r}{choices(scheme, SCHEMES)}")
    known = {name: value for name, value in signature(SCHEMES[scheme]).parameters.items() if name != "dataset"}
    given = {"seed": seed, **settings}
    if clients is not None and "clients" in known:
        given["clients"] = clients
    if unknown := given.keys() - known:
        name = min(unknown)
        raise PartitionError(f"the partition scheme {scheme!r} has no setting {name!r}{choices(name, known)}")
    if missing := [n for n, p in known.items() if p.default is Parameter.empty and n not in given]:
        raise PartitionError(f"the partition scheme {scheme!r} needs {', '.join(missing)}: set partition.{missing[0]}")
    partition = SCHEMES[scheme](dataset, **given)
    if clients not in (None, len(partition.train)):
        raise PartitionError(
            f"{clients} clients were asked for, but the scheme {scheme!r} makes {len(partition.train)} of this data; "
            "leave partition.clients out"
        )
    return partition
