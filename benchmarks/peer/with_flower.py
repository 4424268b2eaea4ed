"""Federated averaging with Flower: its FedAvg, and its simulation with one Ray worker."""

from __future__ import annotations

from contextlib import suppress

import psutil
from flower_client import app, trained
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from work import Clock, Work, serve


def cpu() -> float:
    """Return the CPU seconds of this process and of those that it has started: Ray's daemons and workers."""
    me, seconds = psutil.Process(), 0.0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:4])  # user, system, and both of children that have ended
    return seconds


def run(work: Work, clock: Clock) -> None:
    """Train with Flower's FedAvg, which samples the clients of a round itself."""
    model, server = work.model(), ServerApp()

    def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(arrays.to_torch_state_dict(), strict=False)
        if round:
            clock.round(model)
        return MetricRecord()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        share = len(work.cohorts[0]) / len(work.clients)
        strategy = FedAvg(fraction_train=share, fraction_evaluate=0.0, min_available_nodes=len(work.clients))
        strategy.start(
            grid,
            trained(model),
            num_rounds=len(work.cohorts),
            train_config=ConfigRecord({"folder": str(work.folder)}),
            evaluate_fn=evaluate,
        )

    run_simulation(
        server,
        app,
        len(work.clients),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": 1, "include_dashboard": False},
        },
    )


if __name__ == "__main__":
    serve(run, cpu)
