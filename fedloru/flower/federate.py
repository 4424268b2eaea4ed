"""A run with a federation as its carrier: on Flower's SuperLink, or with all clients in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flwr.proto.node_pb2 import NodeInfo

from fedloru import api
from fedloru.config import Config, completed, dump
from fedloru.config.plan import split
from fedloru.flower.carrier import FlowerCarrier
from fedloru.flower.client_app import client_app, in_process
from fedloru.flower.local import LocalGrid, client_of, identify_server
from fedloru.flower.member import Member
from fedloru.flower.post import Exchange
from fedloru.flower.roster import Roster
from fedloru.flower.site import PLACES, PRIVATE, Source
from fedloru.flower.state import StateFolder
from fedloru.flower.terms import Terms, references
from fedloru.method import State
from fedloru.run.federation import Federation
from fedloru.run.plan import Plan


def carrier(
    config: Config, roster: Roster, grid: Exchange, who: Callable[[NodeInfo], int | None], **options: Any
) -> Callable[[Plan, State], FlowerCarrier]:
    """Return the function that makes the carrier of a run of ``config``; ``options`` are further arguments of it."""

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
            **options,
        )

    return make


def local(config: Config, config_file: Path, folder: Path) -> api.Participants:
    """Return the federation of the configured partition, with all clients in this process.

    The state directories are in ``folder``; what methods keep on clients is where a simulation keeps it, so that the
    run can be resumed as one.
    """
    _, partition = split(config)
    clients = len(partition.train)
    private = Path(config.output.dir) / "clients"
    roster = Roster(folder / "federation")
    for client in range(clients):
        roster.enroll(f"client-{client}", f"in this process: {client}")
    terms = Terms(python=tuple(references(dump(config))), remote_code=True, scores=True)
    members = [
        Member(StateFolder(folder / f"{client:06d}", private), Source(config_file, part=client), terms)
        for client in range(clients)
    ]
    return api.Participants(None, lambda made: carrier(made, roster, local_grid(members), client_of, pause=0.0))


def local_grid(members: Sequence[Member]) -> LocalGrid:
    """Return a grid of ``members``, and make this process its server."""
    identify_server()
    return LocalGrid({client: client_app(in_process(member)) for client, member in enumerate(members)})
