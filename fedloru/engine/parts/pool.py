"""What the workers of all kinds have in common: a pool, the parts that it trains, and what happens if one is lost."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from fedloru.engine.parts.worker import Blueprint, Result
from fedloru.errors import FedloruError, listed
from fedloru.net import Net

ATTEMPTS = 3
"""How often a part is given to a worker before the run fails, if each of them is lost."""

log = logging.getLogger("fedloru")


class Part(NamedTuple):
    """A part of a round: the ids of its clients, for messages, and its jobs as the pool sends them."""

    clients: list[int]
    jobs: Any


class Pool(Protocol):
    """Workers in other processes; ``parts`` is the number of parts into which a cohort is split."""

    parts: int

    def pack(self, value: Any) -> Any:
        """Return ``value``, which may contain tensors, as the pool sends it."""

    def share(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return a reference to ``tensors``, from which workers get them once."""

    def share_net(self, net: Net) -> Any:
        """Return what workers make ``net`` from.

        Raises:
            FedloruError: they cannot.
        """

    def open(self, blueprint: Blueprint) -> None:
        """Start workers that are built from ``blueprint``.

        Raises:
            FedloruError: one cannot be built.
        """

    def train(self, base: Any, common: Any, parts: Sequence[Part], round: int) -> list[Result]:
        """Return the results of ``parts``, in order; ``base`` is a reference, ``common`` a packed ``Round``.

        Raises:
            FedloruError: a client failed, the first in order; or the workers of a part were lost repeatedly.
        """


def report_lost(part: Part, lost: int, round: int, reason: str) -> None:
    """Log that the worker of a part was lost.

    Raises:
        FedloruError: it was lost too often.
    """
    clients = f"client{'s' * (len(part.clients) > 1)} {listed(part.clients)}"
    if lost == ATTEMPTS:
        raise FedloruError(
            f"round {round}: {lost} workers were lost while they trained {clients} ({reason}): if the "
            "machines are short of memory, lower engine.workers or engine.chunk"
        )
    log.warning("round %d: a worker was lost, so another one trains %s", round, clients)
