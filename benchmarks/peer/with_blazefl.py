"""Federated averaging with blazefl: the FedAvg of its ``contrib``, with the client trainer in this process."""

from __future__ import annotations

from typing import Any

from blazefl.contrib import FedAvgBaseClientTrainer, FedAvgBaseServerHandler
from torch import Tensor, nn
from work import Clock, Work, serve


class Models:
    """Selects the model of the work."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def select_model(self, model_name: str) -> nn.Module:
        """Return the initial model, whose state to be sent is what is trained."""
        model: Any = self.work.model()
        trained = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
        model.state_dict = lambda: trained
        return model


class Clients:
    """The examples of the clients."""

    def __init__(self, work: Work) -> None:
        self.work, self.round = work, 0

    def get_dataloader(self, type_: str, cid: int, batch_size: int, generator: object) -> list[tuple[Tensor, Tensor]]:
        """Return the batches of client ``cid`` in this round."""
        return [(self.work.x[rows], self.work.y[rows]) for rows in self.work.order(self.round, cid).split(batch_size)]


class Server(FedAvgBaseServerHandler):
    """The server, with the given cohorts."""

    def sample_clients(self) -> list[int]:
        """Return the clients of the next round."""
        return self.dataset.work.cohorts[self.round]


def run(work: Work, clock: Clock) -> None:
    """Train with blazefl's loop of a server handler and a client trainer."""
    models, clients, settings, count = Models(work), Clients(work), work.settings, len(work.clients)
    share = len(work.cohorts[0]) / count
    server = Server(models, "model", clients, len(work.cohorts), count, share, "cpu", settings["eval_batch"], 0)
    trainer = FedAvgBaseClientTrainer(models, "model", clients, "cpu", count, 1, settings["batch"], settings["lr"], 0)
    while not server.if_stop():
        clients.round += 1
        trainer.local_process(server.downlink_package(), server.sample_clients())
        for package in trainer.uplink_package():
            server.load(package)
        clock.round(server.model)


if __name__ == "__main__":
    serve(run)
