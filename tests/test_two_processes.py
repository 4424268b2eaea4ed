"""A federation of two processes that exchange only message bytes reaches exactly the sequential engine's result.

The test is the server. The clients run in a second process, which builds the model and the clients' examples from a
seed. Everything it knows about the server arrives on standard input: a client's number (the address), a length, and a
message. It keeps each client's base and version in memory, and answers every ``down`` with an ``up``. That process is
this file, run as ``python -m tests.test_two_processes``.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pytest
import torch
from torch import nn

from fedloru import methods, tree, wire
from fedloru import net as nets
from fedloru.client import train
from fedloru.data import Dataset, Examples, Partition
from fedloru.method import NOTHING, Down, Method, State
from fedloru.net import Net
from fedloru.recipe import Recipe, at_round
from fedloru.rng import gen
from fedloru.run.loop import Run
from fedloru.run.plan import Plan
from fedloru.run.sampling import cohort
from fedloru.session import Job, Session
from fedloru.wire import MessageSpec

CLIENTS, COHORT, ROUNDS, SEED = 5, 2, 6, 6
SECONDS = 90
ADDRESS = struct.Struct(">IQ")
RECIPE = Recipe(lr=0.1, momentum=0.9, weight_decay=1e-3, batch_size=4, epochs=2, clip=1.0, schedule="cosine", flip=True)


def method() -> Method:
    """Return the method of both processes: FedLoRU with a proximal term, which merges factors every two rounds."""
    return methods.prox(methods.fedloru(recipe="paper", tau=2), mu=0.01)


def net() -> Net:
    """Return the model of both processes: convolution, BatchNorm, dropout and two linear layers, in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(72, 24),
            nn.Tanh(),
            nn.Linear(24, 3),
        )
    return nets.attach(model, rank=1, alpha=2.0, targets=("0", "6"), dropout=0.1)


def examples(client: int) -> Examples:
    """Return the 6 to 14 examples of one client, which are created only in the clients' process."""
    g, n = gen(0, "examples", client), 6 + 2 * client
    y = torch.randint(0, 3, (n,), generator=g)
    return {"x": torch.randn(n, 1, 6, 6, generator=g) + y.view(-1, 1, 1, 1), "y": y}


# The clients' process ------------------------------------------------------------------------------------------------


class Replica(NamedTuple):
    """The copy of the base that a client keeps."""

    version: int
    base: tree.Params


def read(stream: BinaryIO) -> tuple[int, bytes] | None:
    """Return an address and a message, or None at the end of the stream."""
    head = stream.read(ADDRESS.size)
    if len(head) < ADDRESS.size:
        return None
    client, length = ADDRESS.unpack(head)
    return client, stream.read(length)


def write(stream: BinaryIO, client: int, message: bytes) -> None:
    """Send a message with its address and length."""
    stream.write(ADDRESS.pack(client, len(message)) + message)
    stream.flush()


def clients() -> None:
    """Answer the messages on standard input until it is closed."""
    torch.set_num_threads(1)
    model = net()
    spec = wire.MessageSpec(model, method(), tree.digest(model.params))
    replicas: dict[int, Replica] = {}
    while (envelope := read(sys.stdin.buffer)) is not None:
        client, message = envelope
        if wire.decode(message)[0].kind == "sync":
            replicas[client] = synchronised(spec, replicas.get(client), message)
        else:
            write(sys.stdout.buffer, client, answer(spec, replicas[client], client, message))


def synchronised(spec: MessageSpec, replica: Replica | None, message: bytes) -> Replica:
    """Return a client's base after applying a sync message."""
    held, base = replica or (0, {})
    header, sync = wire.decode_sync(message, spec, held=held)
    return Replica(header.version, wire.catch_up(spec.net.sites, base, sync))


def answer(spec: MessageSpec, replica: Replica, client: int, message: bytes) -> bytes:
    """Train on a down message, and return the reply."""
    header, down = wire.decode_down(message, spec, version=replica.version)
    data = examples(client)
    job = Job(client, torch.arange(len(data["y"])))
    recipe = at_round(RECIPE, header.round, ROUNDS)
    session = Session(spec.net, spec.method, replica.base, down, data, recipe, header.seed, header.round)
    done = train(session, job)
    return wire.encode_up(
        spec.net,
        done.up,
        down,
        method=spec.method.name,
        run=spec.run,
        client=client,
        round=header.round,
        version=header.version,
        codec="fp32",
        numbers={"weight": len(data["y"]), "loss": done.loss},
    )


# The server ----------------------------------------------------------------------------------------------------------


class Clients:
    """The clients' process, and the number of bytes sent to it and received from it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.input, self.output = process.stdin, process.stdout
        self.down = self.up = 0

    def send(self, client: int, message: bytes) -> None:
        write(self.input, client, message)  # type: ignore[arg-type]
        self.down += len(message)

    def receive(self, client: int) -> bytes:
        envelope = read(self.output)  # type: ignore[arg-type]
        assert envelope is not None, "the clients' process ended"
        assert envelope[0] == client
        self.up += len(envelope[1])
        return envelope[1]


@contextmanager
def other_process(log: Path) -> Iterator[Clients]:
    """Start the clients' process, and kill it on an error or after ``SECONDS`` seconds."""
    command = [sys.executable, "-m", "tests.test_two_processes"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parent.parent
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=root, env=env
        ) as process,
    ):
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        try:
            yield Clients(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait() == 0
        except BaseException:
            process.kill()
            print(log.read_text())
            raise
        finally:
            timer.cancel()


class Served(NamedTuple):
    """The server's state and losses after its rounds, and the number of increments sent in each contact."""

    state: State
    losses: list[float]
    caught_up: list[int]


def serve(plan: Plan, other: Clients) -> Served:
    """Run the rounds of ``plan`` with the clients' process."""
    model, chosen, run = plan.net, plan.method, tree.digest(plan.net.params)
    spec = wire.MessageSpec(model, chosen, run)
    state = chosen.init(model, plan.seed)
    ledger = wire.Ledger(model.sites, state)
    losses, caught_up = [], []
    for round in range(1, plan.rounds + 1):
        total, loss = NOTHING, 0.0
        for client in cohort(plan, round):
            sync = ledger.owed(client, state)
            caught_up.append(len(sync.increments))
            if sync.increments or sync.base:
                other.send(client, wire.encode_sync(sync, state, method=chosen.name, run=run, codec="fp32"))
            ledger.delivered(client, state.version)
            down = chosen.down(model, state, ())
            other.send(client, wire.encode_down(model, down, state, method=chosen.name, run=run, codec="fp32"))
            expected = {"round": round, "version": state.version, "client": client}
            header, up = wire.decode_up(other.receive(client), spec, down, **expected)
            weight = header.numbers["weight"]
            total = total.join(chosen.reduce(model, state, Down(state.shared), [up], [weight]), model)
            loss += weight * header.numbers["loss"]
        losses.append(loss / total.weight)
        state = chosen.server(model, state, total)
        ledger.record(state)
    return Served(state, losses, caught_up)


def simulated() -> Plan:
    """Return a plan that simulates the same federation with the sequential engine and all clients' examples."""
    each = [examples(client) for client in range(CLIENTS)]
    whole = {key: torch.cat([data[key] for data in each]) for key in each[0]}
    rows = torch.arange(len(whole["y"])).split([len(data["y"]) for data in each])
    dataset = Dataset("by hand", whole, tree.map(lambda t: t[:4], whole), ("a", "b", "c"))
    partition = Partition("by hand", 0, tuple(rows), (), {})
    return Plan(
        net(),
        method(),
        dataset,
        partition,
        rounds=ROUNDS,
        cohort=COHORT,
        recipe=RECIPE,
        seed=SEED,
        engine="sequential",
        codec="fp32",
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_processes_reach_the_result_of_the_sequential_engine(one_thread: None, tmp_path: Path) -> None:
    plan = simulated()
    reference = Run(plan)
    rows = list(reference)
    with other_process(tmp_path / "clients.log") as other:
        served = serve(plan, other)
    assert (served.state.round, served.state.version) == (ROUNDS, 3)
    assert max(served.caught_up) > 1  # some client missed a merge, and caught up two versions at once
    for name in ("base", "shared", "aux", "increment"):
        assert tree.equal(getattr(served.state, name), getattr(reference.state, name)), name
    assert served.state.notes == reference.state.notes
    assert served.losses == [row["train_loss"] for row in rows]
    assert other.down == rows[-1]["down_bytes_total"] and other.up == rows[-1]["up_bytes_total"]
    moved = {
        site.weight: (served.state.base[site.weight] - plan.net.params[site.weight]).abs().max()
        for site in plan.net.sites
    }
    assert all(float(change) > 1e-4 for change in moved.values())  # the merges changed the base


if __name__ == "__main__":
    clients()
