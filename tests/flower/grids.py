"""Federations on a grid in this process, small enough to run in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo

from fedloru import config as configs
from fedloru import tree
from fedloru.config import Config
from fedloru.config.plan import plan as make_plan
from fedloru.flower import federate
from fedloru.flower.client_app import client_app, in_process
from fedloru.flower.local import LocalGrid, client_of
from fedloru.flower.member import Member
from fedloru.flower.roster import Roster
from fedloru.flower.site import Source
from fedloru.flower.state import StateFolder
from fedloru.flower.terms import Terms
from fedloru.method import State
from fedloru.run.loop import Run
from fedloru.tree import Params
from tests.double import DOUBLE

Change = Callable[[int, Message], Message | None]
FEATURES, CLASSES = 8, 3


def examples(path: Path, images: bool = False, seed: int = 0) -> None:
    """Write separable examples of three classes to a NumPy archive."""
    draw = np.random.default_rng(seed)
    shape = (8, 8) if images else (FEATURES,)
    centers = 2 * draw.normal(size=(CLASSES, *shape))

    def some(count: int) -> tuple[Any, Any]:
        y = np.arange(count) % CLASSES
        return (centers[y] + draw.normal(size=(count, *shape))).astype(np.float32), y

    (x, y), (x_test, y_test) = some(150), some(30)
    np.savez(path, x=x, y=y, x_test=x_test, y_test=y_test)


def configuration(folder: Path, clients: int = 4, images: bool = False, **sections: Any) -> tuple[Config, Path]:
    """Return a configuration, and its file; ``sections`` change values in it."""
    if not (folder / "data.npz").exists():
        examples(folder / "data.npz", images)
    table: dict[str, Any] = {
        "rounds": 4,
        "seed": 3,
        "data": {"source": "npz", "path": str(folder / "data.npz")},
        "partition": {"scheme": "dirichlet", "alpha": 2.0, "clients": clients, "test_fraction": 0.2},
        "model": {"name": "cnn", "norm": "batch", "width": 2} if images else {"name": "mlp", "hidden": [10]},
        "lowrank": {"rank": 3},
        "method": {"name": "fedloru", "tau": 2},
        "client": {"batch_size": 16, "lr": 0.1},
        "cohort": {"size": 2},
        "wire": {"codec": "exact"},
        "engine": {"name": "sequential"},
        "output": {"dir": str(folder / "run")},
        "eval": {"diagnostics": False},
    }
    for name, values in sections.items():
        if name in ("method", "model", "partition"):
            table[name] = values
        elif isinstance(values, dict):
            table[name] = table.get(name, {}) | values
        else:
            table[name] = values
    if table["method"]["name"] == "fedavg":
        del table["lowrank"]
    path = folder / "config.toml"
    path.write_bytes(tomli_w.dumps(table).encode())
    return configs.load(path), path


TERMS = Terms(python=(DOUBLE,), scores=True)


@dataclass
class Grids:
    """A federation: clients of a configured partition, on a grid."""

    config: Config
    file: Path
    folder: Path
    terms: Terms = TERMS
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = make_plan(self.config)
        self.roster = Roster(self.folder / "federation")
        self.members: dict[int, Member] = {}
        for client in range(self.plan.clients):
            self.enroll(client)
        federate.identify_server()
        self.grid = LocalGrid({client: client_app(in_process(each)) for client, each in self.members.items()})

    def enroll(self, client: int, part: int | None = None) -> None:
        """Enroll a client, with the data of ``part``, by default its own."""
        self.roster.enroll(f"c{client}", f"key {client}")
        self.members[client] = self.member(client, part=part)

    def member(self, client: int, terms: Terms | None = None, part: int | None = None) -> Member:
        """Return a client with its state directory; a second one is the first after it was killed."""
        source = Source(self.file, part=client if part is None else part)
        return Member(StateFolder(self.folder / f"state-{client}"), source, terms or self.terms)

    def restart(self, client: int, terms: Terms | None = None) -> None:
        self.members[client] = self.member(client, terms)
        self.grid.connect(client, client_app(in_process(self.members[client])))

    def leave(self, client: int) -> None:
        self.grid.connect(client, None)

    def who(self, info: NodeInfo) -> int | None:
        client = client_of(info)
        clients = self.roster.clients
        return client if client < len(clients) and not clients[client].removed else None

    def run(self, folder: Any = None, snapshot: Any = None) -> Run:
        """Return a run with a new server."""
        options = {"pause": 0.0} | self.options
        make = federate.carrier(self.config, self.roster, self.grid, self.who, **options)
        return Run(self.plan, folder, snapshot, carrier=make)

    def bases(self) -> set[tuple[int, str]]:
        """Return the versions and hashes of the bases that the members hold on disk."""
        found = set()
        for client in self.members:
            table = StateFolder(self.folder / f"state-{client}").read("base.json")
            if table:
                found.add((table["version"], table["hash"]))
        return found


def simulated(config: Config) -> Run:
    """Return the same run as a simulation, after its last round."""
    run = Run(make_plan(config))
    list(run)
    return run


def difference(a: State, b: State) -> float:
    """Return the largest difference between the tensors of two states; inf if they are of another round or version."""
    if (a.round, a.version) != (b.round, b.version):
        return float("inf")
    return max(_difference(a.base, b.base), _difference(a.shared, b.shared), _difference(a.aux, b.aux))


def _difference(a: Params, b: Params) -> float:
    assert a.keys() == b.keys()
    return max((float((a[key].double() - b[key].double()).abs().max()) for key in a if a[key].numel()), default=0.0)


def same(a: Run, b: Run) -> bool:
    """Return whether two runs have the same state, bit for bit."""
    return all(
        tree.digest(getattr(a.state, name)) == tree.digest(getattr(b.state, name)) for name in ("base", "shared", "aux")
    )
