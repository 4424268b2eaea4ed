"""The sequential engine: one client after another, slow and obvious, the oracle of all others."""

from __future__ import annotations

from fedloru import client
from fedloru.data import Examples
from fedloru.engine.task import Collector, Engine, Outcome, Task, by_profile
from fedloru.method import Method
from fedloru.net import Net


def sequential(net: Net, method: Method, data: Examples) -> Engine:
    """Return the engine that trains every client by ``client.train``, in client order."""

    def run(task: Task) -> Outcome:
        collector = Collector(net, method, task)
        for down, jobs in by_profile(net, method, task):
            for job in jobs:
                trained = client.train(
                    net, method, task.state.base, down, job, data, task.recipe, seed=task.seed, round=task.round
                )
                collector.add(down, [job], [trained])
        return collector.outcome()

    return run
