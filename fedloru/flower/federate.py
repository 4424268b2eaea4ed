"""A run with a federation as its carrier: on Flower's SuperLink, or with all clients in this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from fedloru.config import Config, completed, dump
from fedloru.flower.carrier import FlowerCarrier
from fedloru.flower.client_app import client_app
from fedloru.flower.local import LocalGrid, client_of, identify_server
from fedloru.flower.member import Member
from fedloru.flower.roster import Roster
from fedloru.flower.site import Source
from fedloru.flower.state import StateFolder
from fedloru.flower.terms import Terms
from fedloru.method import State
from fedloru.run.federation import Federation
from fedloru.run.plan import Plan

PRIVATE = ("data", "partition", "output", "federation", "engine", "cohort", "eval")
"""The sections of a configuration that clients do not receive."""
PLACES = ("path", "test")
"""The settings of [data] that say where the data is."""


def carrier(
    config: Config, roster: Roster, grid: Grid, who: Callable[[NodeInfo], int | None], pause: float = 0.5
) -> Callable[[Plan, State], FlowerCarrier]:
    """Return the function that makes the carrier of a run of ``config``, for ``fedloru.api.start``."""

    def make(plan: Plan, first: State) -> FlowerCarrier:
        table = dump(completed(config, plan))
        return FlowerCarrier(
            plan,
            first,
            grid=grid,
            who=who,
            roster=roster,
            rules=Federation(**config.federation.model_dump()),
            config={name: value for name, value in table.items() if name not in PRIVATE},
            reading={name: value for name, value in table["data"].items() if name not in PLACES},
            pause=pause,
        )

    return make


def local_members(config_file: Path, clients: int, folder: Path, terms: Terms = Terms(scores=True)) -> list[Member]:
    """Return one client per part of the partition in ``config_file``, with state directories in ``folder``."""
    return [
        Member(StateFolder(folder / f"{client:06d}"), Source(config_file, part=client), terms)
        for client in range(clients)
    ]


def local_grid(members: list[Member]) -> LocalGrid:
    """Return a grid of ``members``, and make this process its server."""
    identify_server()
    return LocalGrid({client: client_app(member) for client, member in enumerate(members)})


def local_carrier(config: Config, roster: Roster, grid: LocalGrid) -> Callable[[Plan, State], FlowerCarrier]:
    """Return the carrier of a run whose clients are all in this process."""
    return carrier(config, roster, grid, partial(_known, grid), pause=0.0)


def _known(grid: Any, info: NodeInfo) -> int | None:
    return client_of(info)
