"""The interface between a run and its engine.

An engine is a function from a ``Task`` to an ``Outcome`` that trains one cohort. In every engine, messages between
server and clients pass through the ``Channel``, so that rounding and bytes are those of a real run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from fedloru import tree
from fedloru.data import Examples
from fedloru.method import NOTHING, Down, Method, State, Total, Up
from fedloru.net import Net, lowered
from fedloru.recipe import Recipe
from fedloru.session import Job, Session, Trained
from fedloru.tree import Params
from fedloru.wire import Channel

Observer = Callable[[Down, Sequence[Up], Sequence[float]], None]
"""Called for each chunk of clients with the message they received, the messages they sent, and their weights."""


class Task(NamedTuple):
    """The work of one round: ``jobs`` sorted by profile, then client; ``recipe`` with the round's learning rate."""

    state: State
    jobs: Sequence[Job]
    recipe: Recipe
    seed: int
    channel: Channel
    observe: Observer | None = None

    @property
    def round(self) -> int:
        """The number of the round being trained, from 1."""
        return self.state.round + 1


class Outcome(NamedTuple):
    """The result of a task: the total, the new client states, and the mean training loss per example in nats."""

    total: Total
    client_state: dict[int, Params]
    loss: float


Engine = Callable[[Task], Outcome]


def sessions(net: Net, method: Method, data: Examples, task: Task) -> Iterator[tuple[Session, list[Job]]]:
    """Yield the session and the jobs of each profile, with the message as the channel delivers it."""
    base = lowered(net, task.state.base, task.recipe.precision)
    for profile, group in groupby(task.jobs, key=lambda job: job.profile):
        jobs = list(group)
        down = task.channel.down(method.down(net, task.state, profile), task.state, len(jobs), profile)
        yield Session(net, method, base, down, data, task.recipe, task.seed, task.round), jobs


class Collector:
    """Collects the results of clients, chunk by chunk, into one ``Outcome``."""

    def __init__(self, net: Net, method: Method, task: Task) -> None:
        self.net, self.method, self.task = net, method, task
        self.total = NOTHING
        self.client_state: dict[int, Params] = {}
        self.loss = 0.0

    def add(self, down: Down, jobs: Sequence[Job], results: Sequence[Trained]) -> None:
        """Send the results of one chunk, in the order of ``jobs``, and add them to the total."""
        weights = [float(len(job.rows)) for job in jobs]
        numbers = [{"weight": weight, "loss": result.loss} for weight, result in zip(weights, results, strict=True)]
        clients, sent = [job.client for job in jobs], [result.up for result in results]
        round, version = self.task.round, self.task.state.version
        ups = self.task.channel.replies(sent, down, clients, round, version, numbers, jobs[0].profile)
        for job, result in zip(jobs, results, strict=True):
            if result.client_state:  # a view would keep the whole chunk alive
                self.client_state[job.client] = tree.clone(result.client_state)
        origin = self.task.channel.answered(down, jobs[0].profile)
        self.collect(origin, ups, weights, [result.loss for result in results])

    def collect(self, down: Down, ups: Sequence[Up], weights: Sequence[float], losses: Sequence[float]) -> None:
        """Add the messages of clients of one profile, as the server received them, to the total."""
        self.loss += sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        if self.task.observe is not None:
            self.task.observe(down, ups, weights)
        chunk = self.method.reduce(self.net, self.task.state, down, ups, weights)
        self.total = self.total.join(chunk, self.net)

    def outcome(self) -> Outcome:
        """Return the outcome of all chunks added so far."""
        return Outcome(self.total, self.client_state, self.loss / self.total.weight)
