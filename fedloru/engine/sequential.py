"""The sequential engine: trains one client after another. It is slow and simple, the reference for other engines."""

from __future__ import annotations

from fedloru import client
from fedloru.data import Examples
from fedloru.engine.task import Collector, Engine, Outcome, Task, sessions
from fedloru.method import Method
from fedloru.net import Net


def sequential(net: Net, method: Method, data: Examples) -> Engine:
    """Return an engine that calls ``client.train`` for every client, in client order."""

    def run(task: Task) -> Outcome:
        collector = Collector(net, method, task)
        for session, jobs in sessions(net, method, data, task):
            for job in jobs:
                collector.add(session.down, [job], [client.train(session, job)])
        return collector.outcome()

    return run
