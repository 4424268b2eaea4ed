"""Create a partition from the name and the settings of a scheme."""

from __future__ import annotations

from typing import Any

from fedloru.data.catalogue import SCHEMES
from fedloru.data.dataset import Dataset
from fedloru.data.partition import Partition
from fedloru.errors import PartitionError, choices
from fedloru.settings import REQUIRED, settings_of


def make(dataset: Dataset, scheme: str, clients: int | None = None, seed: int = 0, **settings: Any) -> Partition:
    """Partition ``dataset`` by the scheme called ``scheme``.

    Args:
        dataset: the data set.
        scheme: the name of the scheme, or ``python:package.module:function``.
        clients: the number of clients; None if the data determines it.
        seed: the seed of the partition.
        settings: the settings of the scheme.

    Raises:
        PartitionError: the scheme or a setting is unknown, a setting is missing, or the scheme rejects the data.
    """
    function = SCHEMES.find(scheme)
    known = settings_of(function, skip=frozenset({"dataset"}))
    given = settings | {name: value for name, value in {"clients": clients, "seed": seed}.items() if name in known}
    if given.get("clients", 1) is None:
        del given["clients"]
    if unknown := given.keys() - known:
        name = min(unknown)
        raise PartitionError(f"the partition scheme {scheme!r} has no setting {name!r}{choices(name, known)}")
    if missing := [name for name, setting in known.items() if setting.default is REQUIRED and name not in given]:
        raise PartitionError(f"the partition scheme {scheme!r} needs {', '.join(missing)}: set partition.{missing[0]}")
    partition = function(dataset, **given)
    if clients not in (None, len(partition.train)):
        raise PartitionError(
            f"{clients} clients were requested, but the scheme {scheme!r} makes {len(partition.train)} from this data; "
            "remove partition.clients"
        )
    return partition
