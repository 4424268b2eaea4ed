"""fedloru with its defaults: an evaluation every round, diagnostics, and messages that are encoded and decoded."""

from __future__ import annotations

import sys

import workloads
from work import Clock, Work, serve

from fedloru.run.loop import Run


def run(work: Work, clock: Clock) -> None:
    """Train with the engine that is named on the command line."""
    plan = workloads.plan(work.settings["workload"], len(work.cohorts), engine=sys.argv[1])
    for row in Run(plan):
        clock.note(row["test_accuracy"])


if __name__ == "__main__":
    serve(run)
