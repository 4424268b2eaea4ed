"""Federated averaging with fluke: its FedAVG, with its own data loader, which shuffles tensors."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):  # built for CUDA, but torch is not; fluke uses it only to load its own data sets

    class Absent(ModuleType):
        """A module in which every name is an empty class."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    for submodule in ("", ".datasets", ".datasets.utils", ".models", ".transforms"):
        sys.modules[f"torchvision{submodule}"] = Absent(f"torchvision{submodule}")

# isort: split
from fluke import FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.data import DataSplitter, FastDataLoader
from fluke.utils import FederationObserver
from work import Clock, Work, serve


class Given(DataSplitter):
    """The given partition."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def assign(self, n_clients: int, batch_size: int = 32) -> tuple[tuple[list[FastDataLoader], list[None]], None]:
        """Return the examples of each client; no client has test examples, and the clock has those of the server."""
        x, y = self.work.x, self.work.y
        return (
            [
                FastDataLoader(x[rows], y[rows], num_labels=10, batch_size=batch_size, shuffle=True)
                for rows in self.work.clients
            ],
            [None] * n_clients,
        ), None


class Evaluation(FederationObserver):
    """Ends a round with an evaluation on the test examples."""

    def __init__(self, clock: Clock, model: Any) -> None:
        self.clock, self.model = clock, model

    def end_round(self, round: int) -> None:
        """Evaluate the model of the server."""
        self.clock.round(self.model)


def run(work: Work, clock: Clock) -> None:
    """Train with fluke's FedAVG, whose server selects the given cohorts."""
    model, cohorts = work.model(), iter(work.cohorts)
    FlukeENV().set_eval_cfg(server=False)
    optimizer = {"name": "SGD", "lr": work.settings["lr"]}
    client = {"batch_size": work.settings["batch"], "local_epochs": 1, "loss": "CrossEntropyLoss"}
    client |= {"optimizer": optimizer, "scheduler": {"step_size": 1, "gamma": 1}}
    training = FedAVG(len(work.clients), Given(work), {"client": client, "server": {"weighted": True}, "model": model})
    training.server.get_eligible_clients = lambda share: [training.clients[client] for client in next(cohorts)]
    training.set_callbacks(Evaluation(clock, training.server.model))
    training.run(len(work.cohorts), len(work.cohorts[0]) / len(work.clients))


if __name__ == "__main__":
    serve(run)
